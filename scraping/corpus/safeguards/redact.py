"""E-mail addresses, phone numbers and IP addresses of people, replaced by placeholders.

The placeholders are those of StarCoder (Li et al. 2023, arXiv:2305.06161). As in FineWeb (Penedo et al. 2024,
arXiv:2406.17557) only what can be someone's goes: routed IP addresses, and no e-mail address of a domain that is
reserved for examples (RFC 2606). Numbers that only look alike stay: versions, sections, dates, ISBNs, coordinates.
What is written to evade programs ("ann at site dot org") is not found.

The patterns take linear time: a match begins where a run of such characters begins, and every repetition is bounded or
possessive.

    >>> redact("Ask ann@site.org, or call +1 415 555 0132 from 93.184.215.14.", ["email", "phone", "ip"]).text
    'Ask <EMAIL>, or call <PHONE> from <IP_ADDRESS>.'
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from scraping.corpus.config import PersonalData

PLACEHOLDERS: dict[PersonalData, str] = {"email": "<EMAIL>", "phone": "<PHONE>", "ip": "<IP_ADDRESS>"}

# Letters of alphabets that addresses are written in: a Chinese or Thai word in front of an address is no part of it.
_LETTER = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿ"
_LOCAL = rf"._%+&~{_LETTER}0-9-"
_EMAIL = re.compile(
    rf"(?<![@{_LOCAL}])(?P<marks>[._%+&~-]{{0,8}})[{_LOCAL}]{{1,64}}+@"
    rf"(?P<domain>(?:[{_LETTER}0-9][{_LETTER}0-9-]{{0,62}}\.){{1,8}}(?P<top>[{_LETTER}]{{2,24}}))"
    rf"(?![{_LETTER}0-9@]|[.-][{_LETTER}0-9])"
    r"(?!:[\w.~-]{0,60}/)"  # git@host.org:owner/repository
)
_RESERVED = re.compile(r"(?:^|\.)example(?:\.(?:com|org|net|edu))?$", re.IGNORECASE)

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(
    rf"(?<![\w.+])(?<![A-Za-z_]-)(?<![^/]/){_OCTET}(?:\.{_OCTET}){{3}}(?![\w+]|\.\d|-[A-Za-z])", re.ASCII
)
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", re.ASCII)
_SMALL = 32  # one address in a hundred has three or four numbers below it; nearly all versions and sections have
_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|driver|update|upgrade|patch|revision|sections?|chapter|clause|"
    r"articles?|figure|table|oid)\.?|§|[<>=~^]=|[<>~^])[\s:(\"'`]{0,3}$",
    re.IGNORECASE,
)
_BEFORE = 16  # characters in front of a number that tell what it is

_MARK = r"[ .\-/\u00a0\u2010-\u2013]"
_AREA = r"[2-9]\d\d"
_PHONE = re.compile(
    # International, E.164: a plus, and 8 to 15 digits in groups.
    rf"(?<![\w+./-])\(?\+(?!\d{{1,3}}[ .]000)(?!\d+\.\d+(?![.\d -]))[1-9]\)?(?:{_MARK}?\(?\d\)?){{7,14}}+(?![\w%°])"
    # North American: an area in parentheses, or three groups with the same mark between them, which is no space.
    rf"|(?<![\w+./-])(?:1[ .-])?\({_AREA}\)[ .-]?{_AREA}[ .-]\d{{4}}(?![\w/-]|\.\d)"
    rf"|(?<![\w+./-])(?:1[.-])?{_AREA}(?P<mark>[-.]){_AREA}(?P=mark)\d{{4}}(?![\w/-]|\.\d)"
)
# Any other number where the text says that it is one.
_CALLED = re.compile(
    r"\b(?P<word>(?:(?:tele)?phone|telefon|tel[ée]fono|t[ée]l[ée]phone|t[ée]l|mobile|mobil|cell ?phone|fax|whatsapp|"
    r"hotline|тел|телефон|電話|电话|call(?: us)? (?:at|on))(?: ?(?:number|no|nr))?)"
    rf"(?P<between>\.?\s?:\s{{0,3}}|\.?\s{{1,2}}(?=[0+(]))(?P<number>\(?\+?\d(?:\)?{_MARK}{{0,3}}\(?\d){{6,14}}+)"
    r"(?![\w%°]|[.,]\d)",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\b(?:19|20)\d\d(?:[-./ ]\d\d?[-./ ]\d\d?|[-\u2013](?:19|20)\d\d)\b|\b\d\d?[-./]\d\d?[-./](?:19|20)\d\d\b"
)


class Redacted(NamedTuple):
    """A text without personal data, and how much of each kind it had."""

    text: str
    counts: dict[str, int]


def redact(text: str, kinds: Iterable[PersonalData]) -> Redacted:
    """Replace personal data of some kinds; in linear time."""
    counts: dict[str, int] = {}
    wanted = [kind for kind in PLACEHOLDERS if kind in kinds]
    for kind in sorted(wanted, key="email ip phone".index):  # an IP address has the digits of a phone number
        text, counts[kind] = _REDACTIONS[kind](text)
    return Redacted(text, {kind: counts[kind] for kind in wanted})


def _emails(text: str) -> tuple[str, int]:
    return _replaced(text, _EMAIL, _email) if "@" in text else (text, 0)


def _email(found: re.Match[str]) -> str | None:
    if _RESERVED.search(found["domain"]) or not _is_top_level(found["top"].lower()):
        return None
    return found["marks"] + PLACEHOLDERS["email"]


@functools.cache
def _is_top_level(label: str) -> bool:
    """Whether domains may end so: `.png` and the attribute of an object do not."""
    from tld import is_tld  # here, because it takes 80 ms

    return bool(is_tld(label))


def _ips(text: str) -> tuple[str, int]:
    text, sixes = _replaced(text, _IPV6, _ipv6) if ":" in text else (text, 0)
    text, fours = _replaced(text, _IPV4, _ipv4)
    return text, fours + sixes


def _ipv4(found: re.Match[str]) -> str | None:
    address = ipaddress.IPv4Address(found[0])
    octets = address.packed
    before = found.string[max(0, found.start() - _BEFORE) : found.start()]
    is_version = sorted(octets)[2] < _SMALL or _VERSION.search(before)
    is_other = is_version or octets[3] == 0  # a whole network
    return None if is_other or not address.is_global or address.is_multicast else PLACEHOLDERS["ip"]


def _ipv6(found: re.Match[str]) -> str | None:
    try:
        is_someones = ipaddress.IPv6Address(found[0]).is_global
    except ValueError:
        return None
    return PLACEHOLDERS["ip"] if is_someones else None


def _phones(text: str) -> tuple[str, int]:
    text, formatted = _replaced(text, _PHONE, _phone)
    text, called = _replaced(text, _CALLED, _called)
    return text, formatted + called


def _phone(found: re.Match[str]) -> str | None:
    return None if _DATE.search(found[0]) else PLACEHOLDERS["phone"]


def _called(found: re.Match[str]) -> str | None:
    if _DATE.search(found["number"]):
        return None
    return found["word"] + found["between"] + PLACEHOLDERS["phone"]


_REDACTIONS = {"email": _emails, "ip": _ips, "phone": _phones}


def _replaced(
    text: str, pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str | None]
) -> tuple[str, int]:
    """The text with each match replaced, but where `replacement` is None, and how many were."""
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        new = replacement(found)
        count += new is not None
        return found[0] if new is None else new

    return pattern.sub(replace, text), count
