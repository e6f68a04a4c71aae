"""A part of a configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


def _hide_defaults(schema: dict[str, Any]) -> None:
    """A form that prefills class defaults would silently overrule the preset."""
    for field in schema.get("properties", {}).values():
        field.pop("default", None)


class Section(BaseModel):
    """Settings that know all their keys."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_hide_defaults)
