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
        ("mailto://ann@site.org, http://ann@site.org", "mailto://<EMAIL>, http://<EMAIL>"),
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
        # groups that look like a date are a part of it
        "+49 89 2000 10 20", "+39 06 2010 11 22", "+91 22 2010 10 10", "+47 22 2012 12", "+49-89-2010-11-22",
        # more than one mark between groups, and trunk prefixes
        "+49 (0) 30 / 123 45 67", "+49  30 1234567", "+44 020 7946 0958", "+49 (30) 123-45-67", "(+44 20) 7946 0958",
        "+225 01 23 45 6789", "+52 1 55 1234 5678", "+65 1800 123 4567", "+598 800 1234",
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
        ("我的电话:010-62345678。", "我的电话:<PHONE>。"),
        ("+49 30 1234567/+49 171 1234567", "<PHONE>/<PHONE>"),
        ("Tel: 030 2012 12 12", "Tel: <PHONE>"),
        ("Tel: 2012 1945", "Tel: <PHONE>"),
        ("Tel. +33 1 42 68 53", "Tel. <PHONE>"),  # too short for France, but the text says what it is
        ("Phone: +1.4155550132", "Phone: <PHONE>"),
        ("Tel: 030 1234567 12.10.2024", "Tel: <PHONE> 12.10.2024"),
        ("Tel: 030 1234567 / 030 76543210", "Tel: <PHONE> <PHONE>"),
        ("Tel: 030 123456 (9-17h)", "Tel: <PHONE> (9-17h)"),
    ],
)
def test_other_numbers_go_where_the_text_calls_them_one(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "rest",
    [
        " 2024-05-01", " 12.10.2024", " 1990-2010", " 2024/5/1 14:30", " 3rd floor", " (9-17h)", "x12", "; +", ", 2024",
        "请", " / x", " €5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", ["+44 20 7946 0958", "+49 30 1234567", "+1 415 555 0132", "+33 6 12 34 56 78"])
def test_what_follows_a_phone_number_stays(number, rest):
    assert redacted(f"At {number}{rest}") == f"At <PHONE>{rest}"


@pytest.mark.parametrize("number", ["+44 20 7946 0958", "+1 415 555 0132", "+33 6 12 34 56 78", "+45 12 34 56 78"])
def test_a_phone_number_has_only_so_many_digits_as_its_country_gives_it(number):
    assert redacted(f"At {number} 24 hours a day") == "At <PHONE> 24 hours a day"
    assert redacted(f"At {number[:-3]}, he says") == f"At {number[:-3]}, he says"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("93.184.215.14 - - [10/Oct/2000:13:55:36]", "<IP_ADDRESS> - - [10/Oct/2000:13:55:36]"),
        ("ip=93.184.215.14:8080", "ip=<IP_ADDRESS>:8080"),
        ("http://93.184.215.14/x", "http://<IP_ADDRESS>/x"),
        ("from 93.184.215.14-93.184.215.20", "from <IP_ADDRESS>-<IP_ADDRESS>"),
        ("[2606:4700:4700::1111]", "[<IP_ADDRESS>]"),
        ("[IPv6:2a00:1450:4001:81b::200e]", "[IPv6:<IP_ADDRESS>]"),
        ("ip:2a00:1450:4001:81b::200e", "ip:<IP_ADDRESS>"),
        ("inet6 addr:2A00:1450:4001:81B::200E/64", "inet6 addr:<IP_ADDRESS>/64"),
        ("2a00:1450:4001:81b:0:0:0:200e: icmp", "<IP_ADDRESS>: icmp"),
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
        "ssh://git@github.com/owner/repo.git", "git+ssh://git@host.org:22/r",
        # versions, sections and other numbers with dots
        "1.2.3.4", "2.1.0.81", "v93.184.215.14", "version 93.184.215.14", "Chrome/120.44.66.10", "1.3.6.1.4.1.311",
        "Chrome 120.0.0.0", "package-93.184.215.14.tar.gz", "§ 12.40.3.2", "==93.184.215.14", "300.400.500.600",
        "version number 93.184.215.14", "versions 93.184.215.14 and 93.184.215.15", "release no. 93.184.215.14",
        # other numbers with colons
        "12:30:45", "00:1A:2B:3C:4D:5E", "std::vector", "21:00:00:e0:8b:05:05:04", "2021::max(3)",
        "2024::12", "2dad::beef", "2003::12", "2a00::1", "2023:10::5", "3000:1:2:3:4:5:6:7",
        "2024:10:11:12:13:14:15:16", "fe80:2a00:1450::1:2", "address::2a00:1450:4001::1",
        # dates, identifiers and amounts
        "2023-10-12 14:30:00", "12.10.2023", "GMT +8 2023-10-10 12:00", "10:00+01:00", "phone: 1990-2010",
        "ISBN 978-0-306-40615-7", "ISSN 2049-3630", "123-45-6789", "4111-1111-1111-1111", "CVE-2021-34527",
        "550e8400-e29b-41d4-a716-446655440000", "SKU 212-555-0100A", "10.1000/182", "1234567890", "1,234,567,890",
        "+10 000 000 visitors", "+1 000 000 000", "+40.7127837", "+5 % more", "3.14159265358979", "415 555 0132",
        "Telephone: 1876 - 1922 - 1945", "mobile: 2015, 2016", "phone: 2015 2016 2017 2018", "Phone: 2023-11-28 10:20",
        "+12 345 678 people", "+25 500 000 €", "+12.345.678 Einwohner", "+49 123 456 people", "+34 912 345 678 €",
        "+1 234 567 890 dollars", "odds +150 200 300", "odds +100000000", "+21 23 25 27 28", "+1 2 3 4 5 6 7 8 9 10 11",
        "+41 16 09 12 34", "+100 200 300 400", "+999-888-777-666", "bit +10000000",
        # coordinates and shares
        "+40.712776 -74.005974", "(+48.856614 +2.352222)", "+51.507351-0.127758/", "+35.6894875 / +139.6917064",
        "+12.3456789-5", "mobile 0.8512345, desktop 0.91", "Fax 0.654321", "mobile: 0.123456789",
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
    assert redact("Tel: 030 1234567 / 030 76543210", ["phone"]).counts == {"phone": 2}
    once = redacted(text)
    assert redacted(once) == once and set(PLACEHOLDERS) == set(KINDS)


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a.",
        "a@",
        "a@b.",
        "x@a-",
        "+1 ",
        "1",
        "1.2.",
        "2001:",
        "(415) ",
        "tel: 1",
        "-",
        "1 ",
        "+1-",
        "2a00:",
        "ip:2a00:1:",
        "version 1.2.",
        "+1.1",
        "ssh://",
        "(0)",
        "2000-01-01 ",
    ],
)
def test_no_text_takes_more_than_linear_time(unit):
    """Quadratic time would take hours."""
    start = time.process_time()
    redact(unit * (500_000 // len(unit)), KINDS)
    for start_of in ("x@", "+4", "tel: 03"):
        redact(start_of + unit * (500_000 // len(unit)), KINDS)
    assert time.process_time() - start < 20
