"""Pages that look empty without JavaScript, of several kinds, and pages that only have scripts."""

from __future__ import annotations

import pytest

from scraping.crawling.rendering.emptiness import emptiness

TEXT = "<p>" + "A sentence that a reader came for. " * 40 + "</p>"
SCRIPTS = '<script src="/a.js"></script>' * 4
MENU = "<header><nav>" + "<a href=/x>Products and services</a> " * 20 + "</nav></header>"


@pytest.mark.parametrize(
    "html",
    [
        '<body><div id="root"></div><script src="/static/main.js"></script>',
        '<body><div id="app"><div class="spinner">Loading…</div></div><script type="module" src="/app.js"></script>',
        "<body><app-root></app-root><script src=runtime.js></script><script src=main.js></script>",
        '<body><div id="__next"></div><script id="__NEXT_DATA__" type="application/json">{"a": "' + "text " * 900
        + '"}</script><script src="/_next/static/chunks/main.js"></script>',
        "<body><noscript>Please enable JavaScript to view this page.</noscript><script>boot()</script>",
        f"<body><main></main>{SCRIPTS}",
        f'<body>{MENU}<div id="root"></div><footer>All rights reserved</footer><script src="/a.js"></script>',
        f"<body><p>Checking your browser…</p>{SCRIPTS}",
    ],
)  # fmt: skip
def test_a_page_that_scripts_are_to_write_looks_empty(html):
    assert emptiness(html) is not None


@pytest.mark.parametrize(
    "html",
    [
        f"<body>{TEXT}{SCRIPTS * 5}",
        f'<body><div id="root">{TEXT}</div><script src="/hydrate.js"></script>',
        f"<body><noscript>Some features need JavaScript.</noscript>{TEXT}{SCRIPTS}",
        f'<body><div id="app"></div>{TEXT}<script src="/comments.js"></script>',
        f"<body><noscript>{TEXT}</noscript><div id=main-outlet></div>{SCRIPTS}",
        "<body><p>A short page.</p>",
        "<body><p>A short page with one script.</p><script src=/count.js></script>",
        '<body><p>It.</p><script type="application/ld+json">{}</script>' * 5,
        '<body><div id="root"></div>',
        "",
    ],
)
def test_a_page_that_has_its_text_or_no_scripts_does_not(html):
    assert emptiness(html) is None


def test_what_it_has_instead_is_told():
    html = f"<body><div id=root></div>{SCRIPTS}<noscript>You need JavaScript</noscript><footer>Imprint, terms</footer>"
    assert str(emptiness(html)) == "text of 14 characters, 4 scripts"
