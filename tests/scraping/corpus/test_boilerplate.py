"""Templates: what a site repeats goes, what a page says stays."""

from __future__ import annotations

import random

from scraping.corpus.boilerplate import NGRAM, SAMPLE, Sampler, TemplateLearner, remove_template

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
    assert remove_template("short", learn(["other " * NGRAM] * 20)) == "short"


def test_the_template_does_not_depend_on_the_order_of_pages():
    pages = [f"{MENU}\n{body}\n{FOOTER}" for body in site()]
    assert (learn(pages) == learn(pages[::-1])).all()
    ids = [f"{i:06d}" for i in range(SAMPLE + 500)]
    shuffled = random.Random(2).sample(ids, len(ids))
    sampler = Sampler()
    for id in shuffled:
        sampler.add(id, id)
    assert sorted(sampler.places()) == ids[:SAMPLE]
