"""Passwords, tokens and signatures: kept out of everything that is written.

A secret reaches us in an address (`https://user:password@host/…`, a signed query) or in a variable of the environment.
Neither may come out again, in a log line, a message, a manifest or a run's parameters.

- `masked` takes them out of settings, by the form of an address alone, so that it does the same on every machine.
- `mask` takes them out of any text; it also knows the values of this process: of variables that are called like a
  secret, and of the addresses that were opened (`remember`). Every `UserError` passes through it, and after `mask_logs`
  every log line of this process, a library's own included.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

__all__ = [
    "MASK", "hashed", "holds_secret", "is_secret_parameter", "mask", "mask_addresses", "mask_logs", "masked",
    "masked_errors", "remember",
]  # fmt: skip

MASK = "***"
LENGTH = 8  # characters of a value that is looked for outside of an address: a shorter one may be any word

_REFERENCE = r"\$\{\w+\}"  # holds no secret, only the name of one
_USERINFO = re.compile(
    # left as they are: a reference for a password, one that is masked already, and the words that documentation uses
    # and a container of Azure's, which stands in the place of a user
    rf"(?<=://)(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)(?!(?:[^\s/?#:@]*:)?{_REFERENCE}@|[^\s/:@]*:?\*\*\*@|user:password@)"
    r"(?:[^\s/?#\"'<>]*|[^\s/:?#@\[]*:(?!\d{1,5}(?:[/?#]|$))[^\s\"'<>]*)@"  # the latter: with a slash in the password
)
_QUERY = re.compile(r"\?[^\s\"'<>#]*")
_PARAMETER = re.compile(
    r"[?&;](?:x-(?:amz|goog|oss|ms)-[\w-]+"  # signed URLs of Amazon, Google, Alibaba, Microsoft
    r"|\w*access_?key_?id|googleaccessid|(?:[\w.-]*[_.-])?(?:sig|jwt|hmac|hdnea|hdnts|auth|pwd|pass|credentials?)"
    r"|[\w.-]*(?:token|signature|password|passwd|passphrase|secret)"
    r"|(?:[\w.-]*[_.-])?(?:api|access|auth|account|shared|subscription|signing)?key)"
    rf"=(?!{_REFERENCE}(?:[&;]|\Z))[^&;]",
    re.I,
)
_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*b?['\"]?(?:basic|bearer)\s+)[^\s'\"]+", re.I)
_VARIABLE = re.compile(
    r"(?:\A|_|PG)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|(?<=_)PWD|PAT|CREDENTIALS?|API_?KEY|KEY|KEY_ID|AUTH_STRING"
    r"|CONNECTION_STRING)\Z",
    re.I,
)

_known: set[str] = set()


# --- settings: by the form of an address ------------------------------------------------------------------------------


def mask_addresses(text: str) -> str:
    """`text` without the users and passwords of its URLs, and without queries that hold a token or a signature.

    Example:
        >>> mask_addresses("https://me:pass1234@example.org/a.parquet?part=2")
        'https://***@example.org/a.parquet?part=2'
        >>> mask_addresses("https://example.org/a.parquet?X-Amz-Date=20260101&X-Amz-Signature=0f1e")
        'https://example.org/a.parquet?***'
    """
    text = _USERINFO.sub(f"{MASK}@", text)
    return _QUERY.sub(lambda query: f"?{MASK}" if _PARAMETER.search(query[0]) else query[0], text)


def is_secret_parameter(parameter: str) -> bool:
    """Whether one `name=value` of a query is a token, a signature or a key."""
    return _PARAMETER.match(f"&{parameter}") is not None


def masked(value: Any, hide: Callable[[str], str] = mask_addresses) -> Any:
    """A value of JSON types with the secrets of its addresses hidden."""
    match value:
        case str():
            return hide(value) if "://" in value else value
        case Mapping():
            return {name: masked(item, hide) for name, item in value.items()}
        case list() | tuple():
            return [masked(item, hide) for item in value]
        case _:
            return value


def holds_secret(value: Any) -> bool:
    """Whether `masked` would hide a part of it."""
    return bool(masked(value) != masked(value, lambda address: address))


def hashed(address: str) -> str:
    """An address with its secrets masked, and told from others by a hash if there are any: for an identity."""
    hidden = mask_addresses(address)
    return address if hidden == address else f"{hidden} (SHA-256 {hashlib.sha256(address.encode()).hexdigest()[:8]})"


# --- texts: by the values that this process knows, too ----------------------------------------------------------------


def mask(text: str) -> str:
    """`text` without any secret that can be recognized in it."""
    text = _HEADER.sub(rf"\g<1>{MASK}", mask_addresses(text))
    for secret in sorted(_known, key=len, reverse=True):  # the whole of one before its parts
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def remember(address: str) -> None:
    """Have `mask` know the user, the password and the secret parameters of an address, wherever they appear."""
    try:
        parts = urlsplit(address)
    except ValueError:  # not a URL
        return
    userinfo = parts.netloc.rpartition("@")[0]
    found = [userinfo, *userinfo.partition(":")[::2], base64.b64encode(unquote(userinfo).encode()).decode()]
    if _PARAMETER.search(f"?{parts.query}"):
        found += [parts.query, *(pair.partition("=")[2] for pair in re.split("[&;]", parts.query))]
    for text in found:
        _remember_value(text)
        _remember_value(unquote(text))


def _remember_value(value: str) -> None:
    """A word in small letters is left out: "textmill" as a password would blank out half of what we say."""
    if len(value) >= LENGTH and not (value.isalpha() and value.islower()) and not os.path.exists(value):  # noqa: PTH110
        _known.update((value, quote(value, safe="")))


def _remember_environment() -> None:
    for name, value in os.environ.items():
        if "://" in value:
            remember(value)
        elif _VARIABLE.search(name):
            _remember_value(value)


class _MaskedRecord(logging.LogRecord):
    """A log record that is masked when it is made, before any handler sees it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        try:
            message = self.getMessage()
        except Exception:  # wrong arguments: the handler says so
            return
        if (hidden := mask(message)) != message:
            self.msg, self.args = hidden, ()
        if self.exc_info:
            self.exc_text = mask(logging.Formatter().formatException(self.exc_info))  # what formatters then write


def mask_logs() -> None:
    """Mask the log lines of this process from now on, whoever writes them, and the secrets of its environment."""
    _remember_environment()
    logging.setLogRecordFactory(_MaskedRecord)


@contextmanager
def masked_errors() -> Iterator[None]:
    """Let no exception out of the block that says a secret: one that does is replaced by a `RuntimeError` with what it
    said, masked."""
    try:
        yield
    except Exception as error:
        said = f"{error} {error!r}"
        if mask(said) == said:
            raise
        raise RuntimeError(mask(f"{type(error).__name__}: {error}")).with_traceback(error.__traceback__) from None
