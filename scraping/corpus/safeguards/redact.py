"""E-mail addresses, phone numbers and IP addresses of people, replaced by placeholders.

The placeholders are those of StarCoder (Li et al. 2023, arXiv:2305.06161). As in FineWeb (Penedo et al. 2024,
arXiv:2406.17557) only what can be someone's goes: routed IP addresses, and no e-mail address of a domain that is
reserved for examples (RFC 2606). Numbers that only look alike stay: versions, sections, dates, ISBNs, coordinates.
What is written to evade programs ("ann at site dot org") is not found.

A number after a plus is a phone number if a country has that code and numbers of that length (ITU-T E.164 and the
national numbering plans); so what follows it, a date or "24 hours", stays. An IPv6 address lies in a block that IANA
has given out, and has three groups or more.

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
    rf"(?<![@{_LOCAL}])(?<!(?<!http)(?<!https)(?<!mailto)://)(?P<marks>[._%+&~-]{{0,8}})[{_LOCAL}]{{1,64}}+@"
    rf"(?P<domain>(?:[{_LETTER}0-9][{_LETTER}0-9-]{{0,62}}\.){{1,8}}(?P<top>[{_LETTER}]{{2,24}}))"
    rf"(?![{_LETTER}0-9@]|[.-][{_LETTER}0-9])"
    r"(?!:[\w.~-]{0,60}/)"  # git@host.org:owner/repository
)
_RESERVED = re.compile(r"(?:^|\.)example(?:\.(?:com|org|net|edu))?$", re.IGNORECASE)

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(
    rf"(?<![\w.+])(?<![A-Za-z_]-)(?<![^/]/){_OCTET}(?:\.{_OCTET}){{3}}(?![\w+]|\.\d|-[A-Za-z])", re.ASCII
)
_IPV6 = re.compile(
    # https://www.iana.org/assignments/ipv6-unicast-address-assignments
    r"(?<![\w.])(?:200[13]|24[01][0-9a-f]|26[0-3][0-9a-f]|280[0-9a-f]|2a[01][0-9a-f]|2c0[0-9a-f])"
    r"(?::[0-9a-f]{0,4}){2,7}(?!\w|:[\w:])",
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|[^\w:.])(?![0-9a-f]{1,4}:)[a-z_][\w-]*:$", re.ASCII | re.IGNORECASE)  # IPv6:, addr:
_SMALL = 32  # one address in a hundred has three or four numbers below it; nearly all versions and sections have
_VERSION = re.compile(
    r"(?:\b(?:v|ver|versions?|releases?|builds?|firmware|drivers?|updates?|upgrades?|patch|revisions?|sections?|"
    r"chapters?|clauses?|articles?|figures?|tables?|oid)\.?(?:\s(?:number|no\.?|nr\.?))?|§|[<>=~^]=|[<>~^])"
    r"[\s:(\"'`]{0,3}(?:\d[\d.]{2,14}(?:,|,?\s(?:and|or|to|&))\s){0,2}$",
    re.IGNORECASE,
)
_BEFORE = 64  # characters in front of a number that tell what it is

_MARK = r"[ .\-/\u00a0\u2010-\u2013]"
_AREA = r"[2-9]\d\d"
_NEW = rf"(?<![{_LETTER}\d_+./-])"  # a number may follow a word of a script without spaces
_DECIMAL = r"\d{1,3}\.\d{4,}+(?!\.\d)"
# International, E.164: a plus, and digits in groups; `_international` says how many of them are a number.
_INTERNATIONAL = re.compile(
    rf"(?<![{_LETTER}\d_+.-])(?<!(?<!\d)/)(?:\((?=\+[\d ]{{1,8}}\)))?\+(?!{_DECIMAL})"
    rf"[1-9]\)?(?:{_MARK}{{0,3}}\(?\d\)?){{6,}}+"
)
_AMERICAN = re.compile(
    # An area in parentheses, or three groups with the same mark between them, which is no space.
    rf"{_NEW}(?:1[ .-])?\({_AREA}\)[ .-]?{_AREA}[ .-]\d{{4}}(?![{_LETTER}\d_/-]|\.\d)"
    rf"|{_NEW}(?:1[.-])?{_AREA}(?P<mark>[-.]){_AREA}(?P=mark)\d{{4}}(?![{_LETTER}\d_/-]|\.\d)"
)
# Any other number where the text says that it is one.
_CALLED = re.compile(
    rf"(?<![{_LETTER}\d_])"
    r"(?P<word>(?:(?:tele)?phone|telefon|tel[ée]fono|t[ée]l[ée]phone|t[ée]l|mobile|mobil|cell ?phone|fax|whatsapp|"
    r"hotline|тел|телефон|電話|电话|call(?: us)? (?:at|on))(?: ?(?:number|no|nr))?)"
    r"(?P<between>\.?\s?:\s{0,3}|\.?\s{1,2}(?=[0+(]))"
    rf"(?P<number>(?!\+?0\.\d)\(?\+?\d(?:\)?{_MARK}{{0,3}}\(?\d){{6,}}+)",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")
_GAP = re.compile(rf"{_MARK}*")
_LONGEST = 100  # characters of a number, and what shows how it goes on
_NEXT = 8  # characters behind a number that show how it goes on
_MOST_CALLED = 4  # numbers in a row: "tel: 030 1234567 / 030 7654321"
_AFTER = re.compile(rf"(?!x\d{{1,6}}\b)[{_LETTER}\d_%°]")  # what goes on so is no number; x12 is an extension
_DATE = r"(?:(?:19|20)\d\d(?:[-./]\d\d?[-./]\d\d?|[-\u2013](?:19|20)\d\d)|\d\d?[-./]\d\d?[-./](?:19|20)\d\d)(?!\d)"
_FIRST_DATE = re.compile(rf"{_DATE}|(?:(?:1[5-9]|20)\d\d(?: ?[-/\u2013] ?| |$)){{3,}}")
_LATE_DATE = re.compile(rf"(?<=[ \u00a0]){_DATE}")
_AMOUNT = re.compile(  # +10 000 000, +25 500 000 people, +250 500 000 500 €
    rf"\(?\+(?:\d{{1,3}}[ .\u00a0]000|\d\d?(?:[ .\u00a0]\d{{3}}){{2}}(?!{_MARK}{{0,3}}\(?\d)"
    rf"|\d{{1,3}}(?:[ .\u00a0]\d{{3}})++(?=\s?[€$£¥₽₹](?!\d)|,\d))"
)

_FREE = range(6, 12)  # digits of a number that costs nothing, in any country
# How many digits any other number of a country has after the country's code.
_LENGTHS = {
    int(code): range(fewest, most + 1)
    for (fewest, most), codes in {
        (4, 8): "247 290 500 676 677 678 682 683 685 686 688 690",
        (4, 13): "43 49 352",
        (5, 10): "27 46 53 63 82 95 98 252 358 359 376 421 508 880",
        (6, 7): "298 299 597 672 681 687",
        (6, 12): "39",
        (7, 8): "230 238 239 241 246 248 267 269 291 297 372 501 507 592 599 670 673 674 675 679 680 691 692 960 961",
        (7, 10): "48 220 231 243 254 265 353 354 423 595 967 975",
        (7, 12): "62 86 381 882",
        (8, 8): "45 47 65 216 222 223 226 227 228 232 235 236 253 257 266 268 350 356 357 370 371 373 374 382 386 389 "
        "502 503 504 505 506 509 591 598 689 800 808 852 853 965 968 973 974 993",
        (8, 9): "32 36 51 66 213 224 250 258 264 355 377 385 387 593 855 886 962 963 970 971",
        (8, 10): "20 57 60 64 378 850 856 964 976 977",
        (8, 12): "383 883 972",
        (9, 9): "33 34 40 41 56 61 93 94 211 212 218 221 233 237 240 242 244 245 249 251 255 256 260 261 262 263 351 "
        "375 380 420 590 594 596 966 979 992 994 995 996 998",
        (9, 11): "31 44 81 84 92 881",
        (9, 12): "870 878 888",
        (10, 10): "1 7 30 58 90 91 225 229 234",
        (10, 11): "52 54 55",
    }.items()
    for code in codes.split()
}


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
    before = found.string[max(0, found.start() - _BEFORE) : found.start()]
    if before.endswith(":") and not _LABEL.search(before):
        return None
    end = ":" if found[0].endswith(":") and not found[0].endswith("::") else ""
    address = found[0].removesuffix(end)
    try:
        is_someones = ipaddress.IPv6Address(address).is_global and sum(map(bool, address.split(":"))) > 2
    except ValueError:
        return None
    return PLACEHOLDERS["ip"] + end if is_someones else None


def _phones(text: str) -> tuple[str, int]:
    text, international = _replaced(text, _INTERNATIONAL, _international) if "+" in text else (text, 0)
    text, american = _replaced(text, _AMERICAN, lambda _: PLACEHOLDERS["phone"])
    text, called = _replaced(text, _CALLED, _called)
    return text, international + american + called


def _international(found: re.Match[str]) -> str | None:
    first = _DIGITS.search(found[0])
    code = next((code for size in (1, 2, 3) if int(code := first[0][:size]) in _LENGTHS), None) if first else None
    if code is None or _AMOUNT.match(found.string, found.start()):
        return None

    def fits(digits: str) -> bool:
        national = digits[len(code) :]
        if code in ("1", "7"):
            return len(national) == 10 and national[0] not in "01"
        without_trunk = national.removeprefix("0")  # +44 020; in some countries the 0 is a part of the number
        lengths = _FREE if without_trunk.startswith(("800", "1800")) else _LENGTHS[int(code)]
        return len(national) in lengths or len(without_trunk) in lengths

    end = _end(found.string[found.start() : found.end() + _NEXT], len(found[0]), fits)
    return PLACEHOLDERS["phone"] + found[0][end:] if end else None


def _called(found: re.Match[str]) -> str | None:
    if _FIRST_DATE.match(found["number"]):
        return None
    number, rest, new = found["number"], found.string[found.start("number") : found.end() + _NEXT], ""
    for _ in range(_MOST_CALLED):
        end = _end(rest, len(number), lambda digits: 7 <= len(digits) <= 15)
        gap = _GAP.match(number, end)
        if not end or not gap:
            break
        new += PLACEHOLDERS["phone"] + gap[0]
        number, rest = number[gap.end() :], rest[gap.end() :]
        if _FIRST_DATE.match(number):
            break
    return found["word"] + found["between"] + new + number if new else None


def _end(text: str, size: int, fits: Callable[[str], bool]) -> int:
    """Where the longest number ends whose digits fit, without a date that follows it; 0 if there is none.

    Args:
        text: digits in groups, and what stands behind them.
        size: how many characters of it are the digits.
        fits: whether so many digits are a number.
    """
    text = text[:_LONGEST].replace("(0)", "   ")
    digits, ends, single = "", [], 0
    for group in _DIGITS.finditer(text):
        digits += group[0]
        single += len(group[0]) == 1
        if group.end() > size or single > 2 or len(digits) > 20:
            break
        closed = text.count("(", 1, group.end()) <= text.count(")", 0, group.end() + 1)
        if closed and fits(digits) and not _AFTER.match(text, group.end()):
            ends.append(group.end())
    date = _LATE_DATE.search(text)
    end = max([end for end in ends if date is None or end <= date.start()] or ends, default=0)
    return end + (0 < end < size and text[end] == ")")


_REDACTIONS = {"email": _emails, "ip": _ips, "phone": _phones}


def _replaced(
    text: str, pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str | None]
) -> tuple[str, int]:
    """The text with each match replaced, but where `replacement` is None, and how many placeholders that gave."""
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        new = replacement(found)
        if new is None:
            return found[0]
        count += sum(new.count(placeholder) for placeholder in PLACEHOLDERS.values())
        return new

    return pattern.sub(replace, text), count
