"""Redaction: what can be someone's goes, what only looks alike stays, and no text takes long."""

from __future__ import annotations

import time

import pytest

from scraping.corpus.safeguards.redact import PLACEHOLDERS, redact

KINDS = ["email", "phone", "ip"]


def redacted(text):
    return redact(text, KINDS).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann@site.org.", "Write to <EMAIL>."),
        ("'ann@site.org', (o.brien+news@mail.site-two.co.uk)", "'<EMAIL>', (<EMAIL>)"),
        ("联系我们info@site.com.cn谢谢", "联系我们<EMAIL>谢谢"),
        ("...ann@site.org, mailto:ann@site.org?subject=x", "...<EMAIL>, mailto:<EMAIL>?subject=x"),
        ("инфо@почта.рф", "<EMAIL>"),
        ("ann@site.org ben@site.org", "<EMAIL> <EMAIL>"),
    ],
)
def test_email_addresses_go(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "number",
    [
        "+1 415 555 0132", "+14155550132", "(+1) 415 555 0132", "+44 (0)20 7946 0958", "+49 30 123456",
        "+33 6 12 34 56 78", "+420 123 456 789", "+86-138-0013-8000", "(415) 555-0132", "415-555-0132", "415.555.0132",
        "1-800-555-0199",
    ],
)  # fmt: skip
def test_phone_numbers_go(number):
    assert redacted(f"Call {number}, please.") == "Call <PHONE>, please."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tel.: 030 / 1234567", "Tel.: <PHONE>"),
        ("Telephone number: 020 7946 0958", "Telephone number: <PHONE>"),
        ("Fax: 01 23 45 67 89.", "Fax: <PHONE>."),
        ("phone (020) 7946 0958", "phone <PHONE>"),
        ("call us at 0800 123 4567", "call us at <PHONE>"),
        ("电话:010-62345678", "电话:<PHONE>"),
    ],
)
def test_other_numbers_go_where_the_text_calls_them_one(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("93.184.215.14 - - [10/Oct/2000:13:55:36]", "<IP_ADDRESS> - - [10/Oct/2000:13:55:36]"),
        ("ip=93.184.215.14:8080", "ip=<IP_ADDRESS>:8080"),
        ("http://93.184.215.14/x", "http://<IP_ADDRESS>/x"),
        ("from 93.184.215.14-93.184.215.20", "from <IP_ADDRESS>-<IP_ADDRESS>"),
        ("[2606:4700:4700::1111]", "[<IP_ADDRESS>]"),
    ],
)
def test_ip_addresses_go(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        # of no person
        "user@example.com", "a@mail.example.org", "192.168.1.10", "127.0.0.1", "10.1.33.44", "203.0.113.7",
        "255.255.255.0", "239.255.255.250", "2001:db8::1", "93.184.215.0/24",
        # no addresses
        "icon@2x.png", "git@github.com:owner/repo.git", "@user@mastodon.social", "root@localhost", "lodash@4.17.21",
        "x@self.weight", "@app.route", "https://medium.com/@user.name", "npm/chart.js@3.9.1/dist", "maps/@40.7,-73.9",
        # versions, sections and other numbers with dots
        "1.2.3.4", "2.1.0.81", "v93.184.215.14", "version 93.184.215.14", "Chrome/120.44.66.10", "1.3.6.1.4.1.311",
        "Chrome 120.0.0.0", "package-93.184.215.14.tar.gz", "§ 12.40.3.2", "==93.184.215.14", "300.400.500.600",
        # other numbers with colons
        "12:30:45", "00:1A:2B:3C:4D:5E", "std::vector", "21:00:00:e0:8b:05:05:04", "2021::max(3)",
        # dates, identifiers and amounts
        "2023-10-12 14:30:00", "12.10.2023", "GMT +8 2023-10-10 12:00", "10:00+01:00", "phone: 1990-2010",
        "ISBN 978-0-306-40615-7", "ISSN 2049-3630", "123-45-6789", "4111-1111-1111-1111", "CVE-2021-34527",
        "550e8400-e29b-41d4-a716-446655440000", "SKU 212-555-0100A", "10.1000/182", "1234567890", "1,234,567,890",
        "+10 000 000 visitors", "+1 000 000 000", "+40.7127837", "+5 % more", "3.14159265358979", "415 555 0132",
        "iPhone 14 128 256 512", "Phone 14 128 256 512", "this call 1000000",
    ],
)  # fmt: skip
def test_what_only_looks_alike_stays(text):
    assert redacted(text) == text
    assert redacted(f"It is {text}, they say.") == f"It is {text}, they say."


def test_only_what_is_asked_for_goes_and_it_is_counted():
    text = "ann@site.org, ben@site.org, +1 415 555 0132, 93.184.215.14"
    assert redact(text, []) == (text, {})
    assert redact(text, ["email"]) == ("<EMAIL>, <EMAIL>, +1 415 555 0132, 93.184.215.14", {"email": 2})
    assert redact(text, ["ip", "phone"]) == (
        "ann@site.org, ben@site.org, <PHONE>, <IP_ADDRESS>", {"phone": 1, "ip": 1},
    )  # fmt: skip
    once = redacted(text)
    assert redacted(once) == once and set(PLACEHOLDERS) == set(KINDS)


@pytest.mark.parametrize(
    "unit", ["a", "a.", "a@", "a@b.", "x@a-", "+1 ", "1", "1.2.", "2001:", "(415) ", "tel: 1", "-", "1 ", "+1-"]
)
def test_no_text_takes_more_than_linear_time(unit):
    """Quadratic time would take hours."""
    start = time.process_time()
    redact(unit * (500_000 // len(unit)), KINDS)
    redact("x@" + unit * (500_000 // len(unit)), KINDS)
    assert time.process_time() - start < 20
