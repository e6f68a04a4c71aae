"""Addresses in settings: URLs that may name variables of the environment in place of a secret.

    path: https://reader:${DATA_PASSWORD}@data.example.org/train.parquet
    store: ${TEXTMILL_STORE}

The variable is looked up at the last moment, where the address is opened (`expand`); the file, the run's parameters and
the manifests hold its name alone.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from textmill.errors import UserError
from textmill.secrets import MASK, is_secret_parameter, mask_addresses, remember

__all__ = ["expand", "is_resolvable", "not_masked", "shown", "without_secrets"]

_REFERENCE = re.compile(r"\$\{(\w+)\}|\A\$(\w+)\Z")
_USERINFO = re.compile(r"://([^/?#]*)@")
# what is signed, of Amazon, Google, Alibaba and Microsoft, and changes with the signature
_SIGNED = re.compile(
    r"(?:x-(?:amz|goog|oss|ms)-[\w-]+|expires|policy|key-pair-id|googleaccessid|se|st|sv|sr|sp|ss|srt|spr|sip"
    r"|sk(?:oid|tid|t|e|s|v))=",
    re.I,
)


def not_masked(address: str) -> str:
    """The address, as a setting takes it.

    Raises:
        ValueError: it was masked, as in a manifest, and can be opened no more.
    """
    if f"{MASK}@" in address or f"?{MASK}" in address:
        raise ValueError(
            f"{address} holds {MASK} where a secret was, which is kept nowhere: write a variable of the environment "
            "there, such as ${PASSWORD}"
        )
    return address


def expand(address: str) -> str:
    """The address with the values of its variables, to open it. From now on messages and logs mask its secrets.

    A value that stands for a user or a password is percent-encoded, any other is taken as it is.

    Raises:
        UserError: a variable is not set.
    """
    userinfo = _USERINFO.search(address)

    def value_of(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name not in os.environ:
            raise UserError(f"{address} names a variable that the environment does not have: export {name}=…")
        inside = userinfo and userinfo.start(1) <= reference.start() < userinfo.end(1)
        return quote(os.environ[name], safe=":") if inside else os.environ[name]

    expanded = _REFERENCE.sub(value_of, address)
    remember(expanded)
    return expanded


def is_resolvable(address: str) -> bool:
    """Whether the environment has the variables that an address names."""
    return all((match[1] or match[2]) in os.environ for match in _REFERENCE.finditer(address))


def shown(address: str) -> str:
    """What may be written of an address: what it comes to, or, where that holds a secret, its variables' names, and
    `***` for a secret that stands in it."""
    if is_resolvable(address) and mask_addresses(expanded := expand(address)) == expanded:
        return expanded
    return mask_addresses(address)


def without_secrets(url: str) -> str:
    """What a URL is known by: without user and password, and without tokens, signatures and what is signed with them
    (when it expires, who may use it), so that a fresh signature names the same thing. Any other part of a query may say
    which file is meant, and counts.

    Example:
        >>> without_secrets("https://me:secret@example.org/a.parquet?sig=ab12&se=2026-01-01")
        'https://example.org/a.parquet'
        >>> without_secrets("https://example.org/get?file=a.parquet&token=ab12")
        'https://example.org/get?file=a.parquet'
    """
    place, _, query = url.partition("?")
    place = mask_addresses(place).replace(f"{MASK}@", "")
    parameters = query.split("&") if query else []
    if any(map(is_secret_parameter, parameters)):
        parameters = [one for one in parameters if not (is_secret_parameter(one) or _SIGNED.match(one))]
    return f"{place}?{'&'.join(parameters)}" if parameters else place
