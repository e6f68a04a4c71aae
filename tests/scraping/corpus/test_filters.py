"""Filters: junk is dropped with its reason; prose, reference pages and code pass; each rule can be set."""

from __future__ import annotations

import inspect
import textwrap

import pytest
from pydantic import ValidationError

from scraping.corpus.config import FilterConfig
from scraping.corpus.filters import detect_language
from scraping.corpus.recipe import FilterResult, apply_filters, recipe

PROSE = (
    "The library was founded in the spring of that year by a small group of teachers who wanted their students to read "
    "more widely. At first it held four hundred books, most of them gifts, and opened on two evenings a week. Within a "
    "decade it had moved into the old customs house, where the reading room still looks over the harbour."
)
GERMAN = (
    "Die Bibliothek wurde im Frühjahr jenes Jahres von einer kleinen Gruppe von Lehrern gegründet, die wollten, dass "
    "ihre Schüler mehr lesen. Anfangs umfasste sie vierhundert Bücher, die meisten davon Geschenke, und sie war an "
    "zwei Abenden in der Woche geöffnet."
)
JAPANESE = (
    "書店は駅の近くにあり、毎日朝九時から夜八時まで開いています。店主は昔、学校の先生でした。彼は本と猫を愛していて、"
    "店には三匹の猫がいます。客の多くは学生で、放課後に立ち寄り、長い時間をかけて本を選びます。週末には小さな音楽会も"
    "開かれます。古い雑誌や地図も売られており、遠くから来る人もいます。冬になると店の奥で温かいお茶が出され、常連は火の"
    "そばで静かに本を読みます。春には庭の桜が咲き、近所の人々が集まって写真を撮ります。"
)
LIST = "\n".join(
    ["What to bring on the first day of class:", "- a notebook and two pens", "- your library card", PROSE]
)


def result(text: str, config: FilterConfig) -> FilterResult:
    return apply_filters(text, recipe(config))


@pytest.mark.parametrize(
    "text",
    [PROSE, GERMAN, JAPANESE, LIST, inspect.getsource(textwrap), inspect.getdoc(textwrap.TextWrapper)],
)
def test_what_people_read_passes(text):
    assert result(text, FilterConfig()).reason is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Too little.", "too short"),
        ("word " * 500_000, "too long"),
        ("1234 5678 90 12.5 % 3/4 " * 20 + "ab", "few words with letters"),
        ("aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQ " * 10, "word length"),
        ("#tag one #two tag #three x #four y #five z " * 8, "symbols"),
        ("a broken � page � with � many � marks � " * 8, "replacement characters"),
        (PROSE + " Lorem ipsum dolor sit amet.", "placeholder text"),
        ("\n".join(f"- entry number {i} of this list" for i in range(30)), "bullet lines"),
        ("\n".join(f"The teaser number {chr(97 + i)} about a thing to read…" for i in range(6)), "ellipsis lines"),
        ("\n".join(["Share this page with your friends"] * 30), "duplicate lines"),
        (" ".join([" ".join(f"w{i}x" for i in range(15))] * 12), "duplicate runs"),
        ("buy now " * 60, "duplicate runs"),
        (" ".join(f"cheap phones number{i}" for i in range(40)), "top 2-gram"),
    ],
)
def test_junk_is_dropped_with_its_reason(text, reason):
    found = result(text, FilterConfig())
    assert found.reason == reason and found.detail


def test_one_line_that_trails_off_is_no_list_of_teasers():
    assert result(PROSE + " And so on…", FilterConfig()).reason is None


def test_each_group_of_rules_can_be_switched_off():
    off = {"enabled": False}
    assert result("short", FilterConfig(length=off)).reason is None
    assert result("\n".join(["Share this page with your friends"] * 30), FilterConfig(repetition=off)).reason is None
    assert result("1234 5678 90 12.5 % 3/4 " * 20 + "ab", FilterConfig(symbols=off, repetition=off)).reason is None


def test_thresholds_can_be_set():
    assert result(PROSE, FilterConfig(length={"min_characters": 1_000})).reason == "too short"
    assert result("Too little.", FilterConfig(length={"min_characters": 5})).reason is None
    with pytest.raises(ValidationError):
        FilterConfig(length={"minimum": 5})


def test_languages():
    english = FilterConfig(language={"keep": ["en"]})
    assert result(PROSE, english).reason is None and result(PROSE, english).lang == "en"
    assert result(GERMAN, english)[:1] == ("language",) and result(GERMAN, english).lang == "de"
    assert result(GERMAN, FilterConfig(language={"keep": ["de", "en"]})).reason is None
    assert result(inspect.getdoc(textwrap.TextWrapper), english).reason is None
    assert detect_language("Bonjour") == (None, 0.0)
    with pytest.raises(ValidationError, match="not a language code"):
        FilterConfig(language={"keep": ["English"]})
