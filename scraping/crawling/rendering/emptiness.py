"""Whether a page has little to say without JavaScript: told from its HTML alone.

Three signs are looked at, and a page must have scripts and hardly any text beside them:

- an element that applications fill (`<div id="root">`, `<app-root>`) and that holds nothing yet;
- a `<noscript>` that asks for JavaScript;
- more scripts than text could need.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["Emptiness", "emptiness"]

_MAX_TEXT = 200  # characters of a page that says nothing: a title, a menu, "Loading…"
_MAX_SHELL = 1_000  # characters around an element that is still to be filled: menu, footer, cookie notice
_MAX_PLACEHOLDER = 60  # characters in it
_MAX_NOTICE = 300  # characters of a `<noscript>`
_MANY_SCRIPTS = 3
_MAX_CHARACTERS = 2_000_000  # of HTML that are looked at
# React, Vue, Next, Nuxt, Angular, Svelte, Gatsby, Ember, Quasar, Docusaurus, Flutter, Blazor and common habits
_ROOTS = (
    "#root, #app, #__next, #__nuxt, #__docusaurus, #___gatsby, #svelte, #q-app, #app-root, #react-root, #application, "
    "#main-app, #app-container, #app-mount, app-root, app, my-app, flutter-view, #ember-app, ng-app, [ng-app], "
    "[data-reactroot], [data-server-rendered], [ng-version], [ng-view], ng-view, ui-view, [ui-view], router-outlet"
)
_CONTENT = "p, h1, h2, article, form, img"
_ASKS_FOR_JAVASCRIPT = re.compile(r"java\s?script", re.I)
_NO_PROGRAM = re.compile(r"json|template|importmap|speculationrules|text/(?:x-|plain|html|xml)", re.I)


@dataclass(frozen=True)
class Emptiness:
    """What a page that looks empty has instead of text."""

    characters: int
    scripts: int

    def __str__(self) -> str:
        scripts = "1 script" if self.scripts == 1 else f"{self.scripts:,} scripts"
        return f"text of {self.characters:,} characters, {scripts}"


def emptiness(html: str) -> Emptiness | None:
    """What a page has instead of text, if it looks as if scripts were to write it; None if it does not.

    Example:
        >>> str(emptiness('<title>Shop</title><div id="root"></div><script src="/app.js"></script>'))
        'text of 0 characters, 1 script'
    """
    tree = LexborHTMLParser(html[:_MAX_CHARACTERS])
    scripts = sum(not _NO_PROGRAM.search(node.attributes.get("type") or "") for node in tree.css("script"))
    tree.strip_tags(["script", "style", "template", "svg", "iframe"], recursive=True)
    asks = False
    for node in tree.css("noscript"):
        if _length(node.text(separator=" ")) <= _MAX_NOTICE:  # some sites put their text there
            asks = asks or bool(_ASKS_FOR_JAVASCRIPT.search(node.text()))
            node.decompose()
    text = _length(tree.body.text(separator=" ") if tree.body else "")
    if not scripts or text > _MAX_SHELL:
        return None
    unfilled = any(map(_is_unfilled, tree.css(_ROOTS)))
    looks_empty = unfilled or (text <= _MAX_TEXT and (asks or scripts >= _MANY_SCRIPTS))
    return Emptiness(text, scripts) if looks_empty else None


def _is_unfilled(root: LexborNode) -> bool:
    return _length(root.text(separator=" ")) <= _MAX_PLACEHOLDER and root.css_first(_CONTENT) is None


def _length(text: str) -> int:
    return len(" ".join(text.split()))
