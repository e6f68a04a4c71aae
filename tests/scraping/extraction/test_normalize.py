"""The normal form of texts, and the removal of templates."""

import random
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraping.corpus.boilerplate import SAMPLE, WINDOW, Sampler, TemplateLearner, remove_template
from scraping.corpus.hashing import ngrams, words
from scraping.extraction.normalize import normalize


@pytest.mark.parametrize(
    ("raw", "cleaned"),
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
def test_normal_form(raw, cleaned):
    assert normalize(raw) == cleaned


def test_long_runs_of_spaces_take_linear_time():
    start = time.process_time()
    assert normalize("a \nb" + " " * 500_000 + "c") == "a\nb" + " " * 500_000 + "c"
    assert time.process_time() - start < 1


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_clean_text_has_its_promised_form(text):
    once = normalize(text)
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once and "\n\n\n" not in once and not once.startswith("\n") and once == once.rstrip()
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in once)


@given(st.text(alphabet="ab é\u00a0\u200b\u0308\r\n\t ", max_size=60))
def test_cleaning_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.text(alphabet="ab é\n\t ", max_size=80))
def test_words_are_those_of_split(text):
    split = words(text)
    assert [split.data[a:b].decode() for a, b in zip(split.starts, split.ends, strict=True)] == text.split()
    hashes = dict(zip(text.split(), split.hashes.tolist(), strict=True))
    assert len(set(hashes.values())) == len(hashes)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_ngrams_are_equal_where_runs_are(numbers, n):
    grams = ngrams(np.array(numbers, np.uint64) * np.uint64(12345678912345), n).tolist()
    runs = [tuple(numbers[i : i + n]) for i in range(len(numbers) - n + 1)]
    assert len(grams) == len(runs)
    assert all((a == b) == (x == y) for a, x in zip(grams, runs, strict=True) for b, y in zip(grams, runs, strict=True))


# --- templates --------------------------------------------------------------------------------------------------------

MENU = "Home\nAbout us\nStudy here\nResearch\nNews and events\nContact\nLog in"
FOOTER = "Copyright by the university, all rights reserved, 100 Some Boulevard, Boston\nImprint"


def site(count=60, seed=1):
    random_word = random.Random(seed)

    def sentence():
        return " ".join(f"w{random_word.randrange(3_000)}" for _ in range(random_word.randrange(9, 25))) + "."

    return ["\n".join(["Parameters", *(sentence() for _ in range(4)), "See also", sentence()]) for _ in range(count)]


def learn(texts, share=0.05, min_pages=10):
    learner = TemplateLearner()
    for text in texts:
        learner.add(text)
    return learner.template(share, min_pages)


def test_menu_and_footer_go_and_the_page_stays():
    bodies = site()
    pages = [f"{MENU}\n{body}\n{FOOTER}" for body in bodies]
    template = learn(pages)
    cleaned = [remove_template(page, template) for page in pages]
    # A heading that every page starts with is template; the same heading further down is not.
    assert cleaned == [body.removeprefix("Parameters\n") for body in bodies]
    assert all("See also" in page for page in cleaned)


def test_texts_without_lines_are_cleaned_too():
    bodies = [body.replace("\n", " ") for body in site()]
    pages = [f"{MENU} {body} {FOOTER}".replace("\n", " ") for body in bodies]
    template = learn(pages)
    for page, body in zip(pages, bodies, strict=True):
        assert remove_template(page, template).split() in (body.split(), body.split()[1:])


def test_sentences_on_few_pages_stay():
    shared = "This particular notice about parking in the west garage stands on four pages only."
    pages = [f"{body}\n{shared}" if number < 4 else body for number, body in enumerate(site())]
    assert remove_template(pages[0], learn(pages)).endswith(shared)


def test_nothing_to_learn_from_changes_nothing():
    page = f"{MENU}\nonly page\n{FOOTER}"
    assert remove_template(page, learn([page])) == page
    assert remove_template("", learn([page] * 20)) == ""
    assert remove_template("short", learn(["other " * WINDOW] * 20)) == "short"


def test_the_template_does_not_depend_on_the_order_of_pages():
    pages = [f"{MENU}\n{body}\n{FOOTER}" for body in site()]
    assert (learn(pages) == learn(pages[::-1])).all()
    ids = [f"{i:06d}" for i in range(SAMPLE + 500)]
    shuffled = random.Random(2).sample(ids, len(ids))
    sampler = Sampler()
    for id in shuffled:
        sampler.add(id, id)
    assert sorted(sampler.places()) == ids[:SAMPLE]
