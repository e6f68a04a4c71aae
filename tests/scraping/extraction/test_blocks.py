"""Pages as blocks: what is cut, kept by the model, and how it is laid out."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
from selectolax.lexbor import LexborHTMLParser

from scraping.extraction.blocks.cut import cut
from scraping.extraction.blocks.features import read_head
from scraping.extraction.blocks.labels import label
from scraping.extraction.blocks.model import choose, load, pack, unpack
from scraping.extraction.blocks.render import render
from scraping.extraction.blocks.select import _with_whole_tables
from scraping.extraction.blocks.title import title_of
from scraping.extraction.config import ArticleExtractor, AutoExtractor, MainExtractor
from scraping.extraction.extract import explain, extract

PROSE = [
    "The harbour master keeps a log of every ship that enters, with its flag, its cargo and the state of the tide.",
    "In winter the lamp on the mole burns from four in the afternoon, and the pilots sleep in the boathouse.",
    "Nobody remembers a year without a storm, yet the old wall has held since the last king had it rebuilt.",
    "Fishermen mend their nets on the quay; children learn the knots before they learn to read and write.",
]
MENU = "".join(
    f'<li><a href="/{n}">{n}</a></li>' for n in ("Home", "Products", "Pricing", "About us", "Contact", "Jobs")
)
EXTRACTORS = [AutoExtractor(), ArticleExtractor(), MainExtractor()]


def article(content: str) -> bytes:
    paragraphs = "".join(f"<p>{text}</p>" for text in PROSE)
    return (
        f"<!doctype html><title>The harbour</title><body><div class='site-nav'><ul>{MENU}</ul></div>"
        f"<main><article class='post'><h1>The harbour</h1>{paragraphs}{content}</article></main>"
        f"<div class='site-footer'><p>Copyright 2020 Example. All rights reserved.</p><ul>{MENU}</ul></div></body>"
    ).encode()


def text_of(body: bytes, extractor=AutoExtractor()) -> str:  # noqa: B008
    (document,) = extract(body, "http://site.example/harbour", "text/html", extractor)
    return document.text


def laid_out(html: str, form="text") -> str:
    page = cut(LexborHTMLParser(html))
    return render(page, range(len(page.blocks)), form)


def test_the_model_keeps_the_text_and_leaves_menus_and_footers():
    text = text_of(article(""))
    assert all(sentence in text for sentence in PROSE)
    for chrome in ("Products", "Pricing", "rights reserved"):
        assert chrome not in text
    (document,) = extract(article(""), "http://site.example/", "text/html", AutoExtractor())
    assert document.extractor == "auto"


def test_every_block_is_explained():
    judged = explain(article(""), "http://site.example/", "text/html", AutoExtractor())
    why = {piece.text: (piece.kept, piece.why) for piece in judged}
    assert why[PROSE[0]][0] and why[PROSE[0]][1].startswith("score ")
    assert not why["Copyright 2020 Example. All rights reserved."][0]
    judged = explain(article("<p class=ad>Buy boats</p>"), "http://a/", "text/html", MainExtractor(remove=[".ad"]))
    assert ("Buy boats", False, "inside .ad") in judged and (PROSE[0], True, "by main") in judged


def test_tiny_pages_are_read_by_rules():
    (document,) = extract(b"<title>Hi</title><main>Hello, world.</main>", "http://a/", "text/html", AutoExtractor())
    assert (document.text, document.extractor) == ("Hello, world.", "body")


@pytest.mark.parametrize(
    "html",
    [
        b"<div style=white-space:pre>" * 20_000 + b"Deep " * 100,
        b"<div>" * 50_000 + b"Deep " * 100,
        b"<b>" * 20_000 + b"x " * 300,
        b"",
    ],
)
def test_hostile_depth(html):
    documents = extract(html, "http://a/", "text/html", AutoExtractor())
    assert all("Deep" in document.text or "x" in document.text for document in documents)


def test_scores_are_whole_numbers_and_the_same_after_a_round_trip():
    tree = LexborHTMLParser(article("").decode())
    page, head = cut(tree), read_head(tree, "http://site.example/harbour")
    model = load()
    scores = model.score(page, head)
    assert scores.dtype.kind == "i" and scores.min() >= 0 and scores.max() <= 1000
    assert (unpack(pack(model)).score(page, head) == scores).all()
    for forest in (model.first, model.second):
        assert all(getattr(forest, name).dtype.kind == "i" for name in ("threshold", "value", "levels", "children"))


def test_a_forest_equals_its_trees_walked_one_by_one():
    forest = load().first
    generator = np.random.default_rng(0)
    features = generator.integers(-50, 1200, (40, int(forest.columns.max()) + 1)).astype(np.int16)
    for row, score in zip(features, forest.score(features), strict=True):
        total = 0
        for root in forest.roots:
            node = int(root)
            while forest.children[2 * node] != node:
                node = int(
                    forest.children[2 * node + int(row[forest.columns[forest.feature[node]]] > forest.threshold[node])]
                )
            total += int(forest.value[node])
        assert score == sum(total >= level for level in forest.levels)


def test_blocks_are_kept_that_maximize_the_expected_f1():
    scores, sizes = np.array([900, 800, 300, 50]), np.array([100, 50, 10, 400])
    cutoff = choose(scores, sizes)

    def expected(least):
        kept = scores >= least
        return 2 * (scores * sizes)[kept].sum() / (1000 * sizes[kept].sum() + (scores * sizes).sum())

    assert expected(cutoff) == max(map(expected, scores))


def test_labels_serve_the_longest_stretch_first():
    html = "<li>Knots</li><h1>Knots</h1><p>Learn the old knots of the sea today</p><p>Buy now here</p>"
    page = cut(LexborHTMLParser(html))
    sizes, right = label(page.blocks, "Knots\n\nLearn the old knots of the sea today")
    assert sizes == [1, 1, 8, 3] and right == [0, 1, 8, 0]


# --- structure --------------------------------------------------------------------------------------------------------

LINES = "def f(x):\n    if x:\n        return 1"


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda extractor: extractor.kind)
@pytest.mark.parametrize(
    "code",
    [
        "<pre>def f(x):\n    if x:\n        return 1</pre>",
        "<pre>def f(x):<br>    if x:<br>        return 1</pre>",
        "<pre><div>def f(x):</div><div>    if x:</div><div>        return 1</div></pre>",
        "<pre><code><span class=line>def f(x):</span><span class=line>    if x:</span><span class=line>        return 1"
        "</span></code></pre>",
        "<table class=highlighttable><tr><td class=linenos><pre>1\n2\n3</pre></td><td class=code><pre>def f(x):\n"
        "    if x:\n        return 1</pre></td></tr></table>",
        "<table class=hljs-ln>"
        + "".join(f"<tr><td data-line-number={n}></td><td>{line}</td></tr>" for n, line in enumerate(LINES.split("\n")))
        + "</table>",
    ],
)
def test_code_keeps_its_lines_and_indentation(code, extractor):
    assert LINES in text_of(article(f"<p>The function that the harbour master uses every day:</p>{code}"), extractor)


@pytest.mark.parametrize(
    "code",
    [
        "<div style='white-space: pre-wrap'>def f(x):\n    if x:\n        return 1</div>",
        "<p style='white-space:pre'>def f(x):\n    if x:\n        return 1</p>",
        "<code style='white-space:pre; display:block'>def f(x):\n    if x:\n        return 1</code>",
        "<div style='white-space:pre'><div><b>def</b> f(x):</div><div>    if x:</div><div>        return 1</div></div>",
        "<table class=highlight>"
        + "".join(
            f"<tr><td class=blob-num>{n}</td><td class=blob-code>{line}</td></tr>"
            for n, line in enumerate(LINES.split("\n"))
        )
        + "</table>",
    ],
)
def test_what_is_laid_out_as_code_is_code(code):
    assert laid_out(code, "markdown") == f"```\n{LINES}\n```"


@pytest.mark.parametrize("table_class", ["table row-highlight", "ranking highlight", "source-code", "blob"])
@pytest.mark.parametrize("style", ["", "white-space: pre-wrap", "white-space: pre"])
def test_the_cells_of_a_table_are_parted(table_class, style):
    rows = "<tr><td>1</td><td>Alice</td><td>17</td></tr><tr><td>2</td><td>Bob</td><td>14</td></tr>"
    assert laid_out(f"<table class='{table_class}' style='{style}'>{rows}</table>") == "1 Alice 17\n2 Bob 14"
    assert laid_out(f"<pre><table>{rows}</table></pre>") == "1 Alice 17\n2 Bob 14"


def test_a_table_of_numbers_and_words_is_not_code():
    rows = "<tr><td>200</td><td>OK</td></tr><tr><td>404</td><td>Not found</td></tr>"
    lines = "| 200 | OK |\n| --- | --- |\n| 404 | Not found |"
    assert laid_out(f"<table class='table code-table'>{rows}</table>", "markdown") == lines


def test_a_style_that_keeps_white_space_keeps_the_structure():
    style = "style='white-space: pre-wrap'"
    html = f"<body {style}><nav>Menu</nav><main><h2>Ports</h2><p>One\ntwo\n\nthree</p></main><footer>Imprint</footer>"
    page = cut(LexborHTMLParser(html))
    assert [block.text for block in page.blocks] == ["Menu", "Ports", "One\ntwo", "three", "Imprint"]
    assert not any(block.preformatted for block in page.blocks)
    assert laid_out(f"<p>Text <span {style}>in one</span> line.</p>") == "Text in one line."
    assert laid_out(f"<div {style}>a\nb<p style='white-space: normal'>c\nd</p></div>") == "a\nb\n\nc d"


@pytest.mark.parametrize("around", ["<div style='white-space:pre-wrap'>{}</div>", "<pre>{}</pre>"])
def test_what_is_removed_is_removed_from_preformatted_text(around):
    content = "<nav>Menu</nav><p>A line.</p><div hidden>HIDDEN</div><p class=ad>AD</p><p>  Another.</p>"
    text = text_of(article(around.format(content)), MainExtractor(remove=[".ad"]))
    assert "A line." in text and "Another." in text
    assert not any(word in text for word in ("Menu", "HIDDEN", "AD"))


def test_pages_cannot_spell_the_marks_of_the_layout():
    paragraph = "<p>a &#2;b c &#30; d &#x1; e &#3;f <b>g</b></p><pre>h&#30;i</pre>"
    assert laid_out(paragraph, "markdown") == "a b c d e f **g**\n\n```\nhi\n```"
    formula = "<p><math alttext='x &#2;+&#2; y&#30;'></math></p><table><tr><td>&#1;k<td>l&#1;</table>"
    assert laid_out(formula, "markdown") == "$x + y$\n\n| k | l |\n| --- | --- |"


def test_feeds_that_are_served_as_html():
    item = "<item><title>Knots</title><description>Learn the old knots.</description><guid>7</guid></item>"
    assert laid_out(f"<rss><channel><title>Harbour</title>{item}</channel></rss>").split() == [
        "Harbour", "Knots", "Learn", "the", "old", "knots.", "7"
    ]  # fmt: skip


def test_stress_around_a_paragraph_leaves_no_space():
    assert laid_out("See <b><p>one</p></b>", "markdown") == "See\n\none"


def test_a_paragraph_of_many_parts_takes_linear_time():
    def seconds(parts):
        tree = LexborHTMLParser("<p>" + ("knots " * 16 + "<br><br>") * parts)
        start = time.process_time()
        assert len(cut(tree).blocks) == parts
        return time.process_time() - start

    seconds(1_000)
    # eight times the parts: eight times the seconds, where quadratic time would take 64 times
    assert min(seconds(16_000) for _ in range(3)) < 25 * min(seconds(2_000) for _ in range(3))


def test_a_paragraph_with_code_is_one_line():
    html = "<p>Call\n<code>open()</code>\nand then\n<code>close()</code>.</p>"
    assert laid_out(html) == "Call open() and then close()."


STRUCTURE = """<h2>Ports</h2><p>Call <code>go</code> and <b>wait</b>.</p>
<ol start=3><li>Skye<li>Mull<ul><li>Iona</ul></ol><dl><dt>Mole<dd>A wall.<dt>Quay<dd>A bank.</dl>
<table><tr><th>Port<th>Time<tr><td>Skye<td>noon</table>
<blockquote><p>Well said</blockquote><pre class=language-python>x = 1
  y</pre>"""


def test_structure_as_text():
    assert laid_out(STRUCTURE) == (
        "Ports\n\nCall go and wait.\n\n3. Skye\n4. Mull\n  - Iona\n\nMole\nA wall.\n\nQuay\nA bank.\n\nPort Time\n"
        "Skye noon\n\nWell said\n\nx = 1\n  y"
    )


def test_structure_as_markdown():
    assert laid_out(STRUCTURE, "markdown") == (
        "## Ports\n\nCall `go` and **wait**.\n\n3. Skye\n4. Mull\n   - Iona\n\nMole\n: A wall.\n\nQuay\n: A bank.\n\n"
        "| Port | Time |\n| --- | --- |\n| Skye | noon |\n\n> Well said\n\n```python\nx = 1\n  y\n```"
    )
    assert "# The harbour\n\n" in text_of(article(""), AutoExtractor(format="markdown"))


@pytest.mark.parametrize(
    "math",
    [
        r'<math alttext="x^2"><mi>x</mi><mn>2</mn></math>',
        r"<span class=katex><span class=katex-mathml><math><semantics><mi>x</mi>"
        r'<annotation encoding="application/x-tex">'
        r"x^2</annotation></semantics></math></span><span class=katex-html aria-hidden=true>x2</span></span>",
        r'<span class="MathJax_Preview">x2</span><span class="MathJax">x2</span><script type="math/tex">x^2</script>',
    ],
)
def test_mathematics_stands_once_as_tex(math):
    assert laid_out(f"<p>So {math} grows.</p>") == "So $x^2$ grows."


def test_joiners_stay():
    assert text_of("<main><p>می\u200cخواهم क्\u200dष</p></main>".encode()) == "می\u200cخواهم क्\u200dष"


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("<title>Knots | Harbour News</title><h1>Knots</h1>", "Knots"),
        ("<title>Knots - Harbour</title><meta property=og:site_name content=Harbour>", "Knots"),
        ("<title>Harbour News: Knots</title><meta property=og:site_name content='Harbour News'>", "Knots"),
        ("<title>Knots – Harbour</title>", "Knots"),  # the host's name
        ("<title>Salt-and-pepper knots: a guide</title>", "Salt-and-pepper knots: a guide"),
        ("<title>Knots - splices</title><h1>Other</h1>", "Knots - splices"),
        ("<h1>Only a heading</h1>", "Only a heading"),
    ],
)
def test_titles_without_the_site(head, title):
    assert title_of(LexborHTMLParser(head), "http://www.harbour.example/knots") == title


def test_the_model_is_part_of_what_prepare_made():
    from flows.stages.prepare import PrepareSettings, prepare
    from scraping.extraction.config import MODEL

    auto = prepare.identity(PrepareSettings(extractors={"a": AutoExtractor()}), None)
    assert auto["model"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    main = PrepareSettings(extractors={"a": MainExtractor()})
    assert prepare.identity(main, None) == main


def test_the_rows_of_a_small_table_stay_together():
    rows = "".join(f"<tr><th>Key {number}:</th><td>value {number}</td></tr>" for number in range(4))
    nested = f"<table><tr><td><p>menu of the site</p></td><td><table>{rows}</table></td></tr></table>"
    page = cut(LexborHTMLParser(nested))
    sizes = np.array([len(block.text.split()) for block in page.blocks])
    is_row = ["menu" not in block.text for block in page.blocks]
    for lost, expected in (("2", is_row), ("123", None)):
        kept = np.array(
            [row and block.text.strip(":")[-1] not in lost for row, block in zip(is_row, page.blocks, strict=True)]
        )
        assert kept.any() and not kept.all()
        assert _with_whole_tables(page, kept, sizes).tolist() == (expected or kept.tolist())
