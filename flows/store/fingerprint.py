"""The identity of an artifact: a hash of everything that decides its bytes, and of nothing else.

A fingerprint contains the stage, its version, the settings that can change the output, and the digests of the
inputs' files. It never contains a path, a host or a clock: a store that moved is the same store.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

from pydantic import BaseModel

from textmill.errors import UserError
from textmill.settings import output_settings


def canonical(value: Any, key: str = "") -> Any:
    """Reduce `value` to JSON types that are equal exactly when they would produce the same output.

    Model fields made by `execution_only` (workers, log intervals, schedules) are left out.
    `key` is what the value is called in the configuration, for the error.

    Raises:
        TypeError: for a value without a stable form, such as a path, a clock, a set or an arbitrary object.
        UserError: for a number that JSON cannot hold (NaN, infinity), which a configuration can.
    """
    match value:
        case BaseModel():
            return {name: canonical(item, _below(key, name)) for name, item in output_settings(value).items()}
        case Enum():
            return canonical(value.value, key)
        case None | bool() | int() | str():
            return value
        case float() if value.is_integer():  # 20 in a field of floats and the 20.0 that a file gives are the same
            return int(value)
        case float() if math.isfinite(value):
            return value
        case float():
            raise UserError(f"{key or 'a setting'} is {value}: give a finite number")
        case timedelta():
            return canonical(value.total_seconds(), key)
        case Mapping():
            if not all(isinstance(name, str) for name in value):
                raise TypeError("a mapping with keys other than strings has no canonical form")
            return {name: canonical(item, _below(key, name)) for name, item in value.items()}
        case list() | tuple():
            return [canonical(item, key) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} {value!r} has no canonical form, so it cannot be in a fingerprint")


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`, the same on every machine and in every process."""
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
