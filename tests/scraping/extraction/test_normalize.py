"""The normal form of texts."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraping.extraction.normalize import normalize


@pytest.mark.parametrize(
    ("raw", "normalized"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\x00b\x07c\u200bd\ufeffe\u00adf", "abcdef"),
        ("na\u0308mlich", "nämlich"),
        ("a\u00a0b\u2009c\u3000d", "a b c d"),
        ("line  \t\n    indented\n\n\n\n\nnext", "line\n    indented\n\nnext"),
        ("\n\n  kept indent\n", "  kept indent"),
        ("ItÃ¢â‚¬â„¢s the cafÃ©â€™s menu", "It’s the café’s menu"),
        ("naïve façade – “quoted” Ångström £5", "naïve façade – “quoted” Ångström £5"),
        ("می\u200cخواهم 👩\u200d👧", "می\u200cخواهم 👩\u200d👧"),
        ("", ""),
    ],
)
def test_normal_form(raw, normalized):
    assert normalize(raw) == normalized


def test_long_runs_of_spaces_take_linear_time():
    start = time.process_time()
    assert normalize("a \nb" + " " * 500_000 + "c") == "a\nb" + " " * 500_000 + "c"
    assert time.process_time() - start < 1


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_text_in_normal_form_has_its_promised_form(text):
    once = normalize(text)
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once and "\n\n\n" not in once and not once.startswith("\n") and once == once.rstrip()
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in once)


@given(st.text(alphabet="ab é\u00a0\u200b\u0308\r\n\t ", max_size=60))
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)
