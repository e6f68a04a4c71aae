"""Templates: what a site repeats at the edges of its pages goes, what a page says stays, however often it recurs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from scraping.corpus.boilerplate import (
    BLOCK,
    EDGE_CHARACTERS,
    NGRAM,
    SAMPLE,
    Sampler,
    TemplateLearner,
    cropped,
    remove_template,
    template_of,
)
from scraping.corpus.config import TemplateConfig

MENU = "Home\nAbout us\nStudy here\nResearch\nNews and events\nContact\nLog in"
FOOTER = "Copyright by the university, all rights reserved, 100 Some Boulevard, Boston\nImprint"
MEGA_MENU = "\n".join(f"Menu entry {number}" for number in range(30))


def site(count=60, seed=1):
    random_word = random.Random(seed)

    def sentence():
        return " ".join(f"w{random_word.randrange(3_000)}" for _ in range(random_word.randrange(9, 25))) + "."

    return ["\n".join([*(sentence() for _ in range(4)), "See also", sentence()]) for _ in range(count)]


def learn(texts):
    learner = TemplateLearner()
    for text in texts:
        learner.add(text)
    return learner.template(TemplateConfig().share, TemplateConfig().min_pages)


def clean(texts):
    template = learn(texts)
    return [remove_template(text, template) for text in texts]


def test_menu_and_footer_go_and_the_page_stays():
    bodies = [body.replace("See also", "Parameters") for body in site()]
    pages = [f"{MENU}\nParameters\n{body}\n{FOOTER}" for body in bodies]
    # A heading that every page starts with is template; the same heading further down is not.
    assert clean(pages) == bodies


def test_texts_without_lines_are_cleaned_too():
    bodies = [body.replace("\n", " ") for body in site()]
    assert clean([f"{MENU} {body} {FOOTER}".replace("\n", " ") for body in bodies]) == bodies


@pytest.mark.parametrize("newline", ["\n", " "])
def test_a_title_and_a_breadcrumb_may_stand_before_a_menu(newline):
    pages = [
        f"Title of page {n}\n{MEGA_MENU}\nPart-{n % 7} > Page {n}\n{MEGA_MENU}\n{body}".replace("\n", newline)
        for n, body in enumerate(site())
    ]
    for number, page in enumerate(clean(pages)):
        assert page.startswith(f"Title of page {number}\nPart-{number % 7} > Page {number}\nw")
        assert "Menu entry" not in page


def test_the_menu_of_a_part_of_the_site_goes():
    pages = [f"Part {n % 3}\n" + MEGA_MENU.replace("Menu", f"Part {n % 3}") + f"\n{b}" for n, b in enumerate(site())]
    assert not any("entry" in page for page in clean(pages))


def test_sentences_on_few_pages_stay():
    shared = "This particular notice about parking in the west garage stands on four pages only."
    pages = [f"{body}\n{shared}" if number < 4 else body for number, body in enumerate(site())]
    assert clean(pages)[0].endswith(shared)


# --- facts that recur -------------------------------------------------------------------------------------------------


def directives(pick: random.Random) -> str:
    """One directive of a server's manual: rows of a table, then prose."""
    context = pick.choice(["server config", "server config, virtual host", "directory, .htaccess"])
    rows = [f"Context: {context}", f"Status: {pick.choice(['Core', 'Base', 'Extension'])}", "Module: mod_alias"]
    return "\n".join([f"Syntax: Directive{pick.random()} value", *rows])


def reference(body: str, pick: random.Random) -> tuple[str, list[str]]:
    parts = [f"{directives(pick)}\n{part}" for part in body.split("\n")]
    return "\n".join(parts), [line for part in parts for line in part.split("\n")]


def reference_in_cells(body: str, pick: random.Random) -> tuple[str, list[str]]:
    text, facts = reference(body, pick)
    return "\n".join(f"| {line.replace(': ', ' | ')} |" for line in text.split("\n")), [
        f"| {line.replace(': ', ' | ')} |" for line in facts
    ]


def facts_at_the_end(body: str, pick: random.Random) -> tuple[str, list[str]]:
    facts = ["Status: " + pick.choice(["Extension"] * 7 + ["Base"] * 3)]
    return "\n".join([body, directives(pick), *facts]), facts


def facts_at_the_top(body: str, pick: random.Random) -> tuple[str, list[str]]:
    facts = ["Status: " + pick.choice(["Extension"] * 7 + ["Base"] * 3), f"Module: {pick.choice('abc')}"]
    return "\n".join([*facts, body]), facts


def specification(body: str, pick: random.Random) -> tuple[str, list[str]]:
    """A product of one of four lines, whose products are all made alike."""
    material, country = pick.choice([("steel", "Germany"), ("brass", "Italy"), ("wood", "Norway"), ("tin", "Peru")])
    rows = [
        f"Material: polished {material}", "Warranty: two years by the maker", f"Made in: {country}", "Color: silver",
        "Returns: within thirty days, unused", "Delivery: three to five days", "Volume: 1.7 liters",
        f"Care: wipe with a {material} cloth", "Energy: class A, 230 volts, 50 hertz",
    ]  # fmt: skip
    return "\n".join([f"Kettle {pick.random()}", "Price: 45 EUR", body, *rows, body[::-1]]), rows


def specification_first(body: str, pick: random.Random) -> tuple[str, list[str]]:
    _, rows = specification(body, pick)
    return "\n".join([f"Kettle {pick.random()}", *rows, body]), rows


def table_first(body: str, pick: random.Random) -> tuple[str, list[str]]:
    _, rows = specification(body, pick)
    rows = ["| " + row.replace(": ", " | ") + " |" for row in rows]
    return "\n".join([*rows, body]), rows


def always_the_same_fields(body: str, pick: random.Random) -> tuple[str, list[str]]:
    rows = ["Context: server config", "Status: Base", "Module: core"]
    return "\n".join([*rows, body, *rows]), rows


def legal_sections(body: str, pick: random.Random) -> tuple[str, list[str]]:
    severability = "If any provision of this act is held invalid, the others remain in force, and " + "so on " * 15
    sections = ["Section 7. Severability.", severability.strip(), "Section 8. Short title."]
    return "\n".join([body, *sections, body[::-1]]), sections


def last_section(body: str, pick: random.Random) -> tuple[str, list[str]]:
    _, sections = legal_sections(body, pick)
    if pick.random() < 0.4:
        return "\n".join([body, *sections[:2]]), sections[:2]
    return body, []


def signatures(body: str, pick: random.Random) -> tuple[str, list[str]]:
    signed = []
    for part in body.split("\n"):
        signed += [part, pick.choice([f"-- {name}, moderator of this forum since the year 2003" for name in "abc"])]
    return "\n".join(signed), [line for line in signed if line.startswith("--")]


def prerequisites(body: str, pick: random.Random) -> tuple[str, list[str]]:
    facts = pick.choice([["Permission of the instructor or of the head of the department is required."], []])
    return "\n".join([body, *facts]), facts


def tracebacks(body: str, pick: random.Random) -> tuple[str, list[str]]:
    lines = ["Traceback (most recent call last):", '  File "<stdin>", line 1, in <module>', "New in version 3.2."]
    return "\n".join([body, *lines, body[::-1], *lines, body]), lines


SITES = [
    reference,
    reference_in_cells,
    facts_at_the_end,
    facts_at_the_top,
    specification,
    specification_first,
    table_first,
    always_the_same_fields,
    legal_sections,
    last_section,
    signatures,
    prerequisites,
    tracebacks,
]
FRAMES = [("", ""), (MENU, FOOTER), (MEGA_MENU, f"{MEGA_MENU}\n{FOOTER}")]


@pytest.mark.parametrize("count", [12, 60, 300])
@pytest.mark.parametrize("frame", FRAMES, ids=["bare", "short", "long"])
@pytest.mark.parametrize("content", SITES, ids=lambda content: content.__name__)
def test_facts_that_recur_stay_and_the_frame_goes(
    content: Callable[[str, random.Random], tuple[str, list[str]]], frame: tuple[str, str], count: int
):
    pick = random.Random(count)
    contents = [content(body, pick) for body in site(count, seed=count)]
    top, bottom = frame
    cleaned = clean([f"{top}\n{text}\n{bottom}".strip() for text, _ in contents])
    for page, (text, facts) in zip(cleaned, contents, strict=True):
        assert set(facts) <= set(page.split("\n"))
        assert page == text


# --- what decides -----------------------------------------------------------------------------------------------------


def test_words_beside_a_menu_that_fewer_pages_have_stay():
    notes = [f"Stable since version {number % 3}" for number in range(60)]
    pages = [f"{MEGA_MENU}\n{note}\n{body}" for note, body in zip(notes, site(), strict=True)]
    assert all(page.startswith(note) for page, note in zip(clean(pages), notes, strict=True))


def test_a_line_goes_as_a_whole_or_stays():
    pages = [f"All pages of this site begin with these nine words: {n}.\n{body}" for n, body in enumerate(site())]
    assert clean(pages) == pages


def test_a_heading_that_all_pages_begin_with_stays():
    pages = [f"SYNOPSIS\n{body}" for body in site()]
    assert clean(pages) == pages


def test_a_block_in_the_middle_stays_and_at_an_edge_it_goes():
    halves = list(zip(site(), site(seed=2), strict=True))
    block = " ".join(f"word{number}" for number in range(BLOCK))
    pages = [f"{first}\n{block}\n{second}" for first, second in halves]
    assert clean(pages) == pages
    assert not any(block in page for page in clean([f"{block}\n{first}\n{second}" for first, second in halves]))


def test_pages_that_occur_many_times_count_once():
    pages = [*site(20), *[f"Not found\n{MENU}"] * 40]
    assert clean(pages) == pages


def test_indentation_and_paragraphs_outlive_what_stood_between():
    bodies = site()
    assert clean([f"{MENU}\n\n    {body}\n\n{FOOTER}" for body in bodies]) == [f"    {body}" for body in bodies]
    titled = [f"Title {number}\n{MEGA_MENU}\n\n{body}" for number, body in enumerate(bodies)]
    assert clean(titled) == [f"Title {number}\n\n{body}" for number, body in enumerate(bodies)]


def test_long_pages_are_cleaned_at_both_edges():
    bodies = [body * 150 for body in site(20)]
    pages = [f"{MEGA_MENU}\n{body}\n{MEGA_MENU}\n{FOOTER}" for body in bodies]
    assert all(len(page) > 2 * EDGE_CHARACTERS for page in pages)
    assert clean(pages) == bodies
    template = learn(pages)
    assert all(template_of(cropped(page), template) == template_of(page, template) for page in pages)


def test_what_is_removed_can_be_read():
    pages = [f"{MENU}\n{body}\n{FOOTER}" for body in site()]
    assert template_of(pages[0], learn(pages)) == [MENU, FOOTER]


def test_languages_without_spaces_have_templates_too():
    bodies = [
        f"第{number}页的内容是关于编号{number * 7}的说明。\n状态:稳定\n更多内容{number}。" for number in range(40)
    ]
    assert clean([f"首页\n关于我们\n{body}\n版权所有\n联系我们" for body in bodies]) == bodies


def test_nothing_to_learn_from_changes_nothing():
    page = f"{MENU}\nonly page\n{FOOTER}"
    assert remove_template(page, learn([page])) == page
    assert remove_template("", learn([f"{MENU}\n{body}" for body in site()])) == ""
    assert clean(["", "\n", " "] * 20) == ["", "\n", " "] * 20
    assert remove_template("short", learn(["other " * NGRAM] * 20)) == "short"


def test_the_template_does_not_depend_on_the_order_of_pages():
    pages = [f"{MENU}\n{MEGA_MENU}\n{body}\n{FOOTER}" for body in site()]
    assert (learn(pages) == learn(pages[::-1])).all()
    ids = [f"{i:06d}" for i in range(SAMPLE + 500)]
    shuffled = random.Random(2).sample(ids, len(ids))
    sampler = Sampler()
    for id in shuffled:
        sampler.add(id, id)
    assert sorted(sampler.places()) == ids[:SAMPLE]
    assert sampler.limit == ids[SAMPLE - 1]
