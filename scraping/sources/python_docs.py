"""The demo's site: the documentation that every Python interpreter carries, rendered by pydoc, served over real HTTP.

A crawl of it needs neither a network nor other people's servers, and still meets what sites have:

- a front page, two indexes (`/topics/`, `/library/`), and a page for each language topic and each listed module, with
  navigation around a `<main>`;
- a robots.txt with an area that exists, is linked, and must not be crawled (`/internal/`);
- a sitemap, canonical links, entity tags and dates for conditional requests.

`serve()` runs the site on the loopback interface, on a port of the system's choice. Its name is
http://python-docs.localhost/ all the same: `serve()` gives a resolver that leads this name (RFC 6761, 2013) to that
port.

Pages depend on the Python version alone, so that two machines with the same Python crawl the same site. Only the
modules that are listed here are ever imported.

Example:
    >>> with serve() as resolver:  # doctest: +SKIP
    ...     fetcher = Fetcher("textmill/0.1", private_addresses=True, resolver=resolver)
    ...     fetcher.fetch(Request(f"http://{HOST}/", delay=0, timeout=10, max_bytes=10**6)).status
    200
"""

from __future__ import annotations

import hashlib
import html
import importlib
import importlib.util
import inspect
import platform
import pydoc
import re
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import cache, lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics as TOPICS

from scraping.crawling.connections import Resolver, system_resolver

__all__ = ["HOST", "modules", "page", "paths", "serve"]

HOST = "python-docs.localhost"

# Pure Python, without side effects at import, and in every Python from 3.11 on.
# fmt: off
_LISTED = [
    "abc", "argparse", "base64", "bdb", "bisect", "calendar", "cmd", "code", "codecs", "codeop", "collections",
    "colorsys", "compileall", "concurrent.futures", "configparser", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "decimal", "difflib", "dis", "doctest", "email", "email.charset", "email.generator", "email.header",
    "email.message", "email.parser", "email.policy", "email.utils", "enum", "filecmp", "fileinput", "fnmatch",
    "fractions", "ftplib", "functools", "getopt", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac",
    "html", "html.parser", "http.client", "http.cookiejar", "http.cookies", "http.server", "imaplib", "inspect",
    "ipaddress", "json", "json.decoder", "json.encoder", "keyword", "linecache", "locale", "logging",
    "logging.config", "logging.handlers", "mailbox", "mimetypes", "netrc", "ntpath", "numbers", "optparse", "pathlib",
    "pdb", "pickle", "pickletools", "pkgutil", "plistlib", "poplib", "posixpath", "pprint", "profile", "pstats",
    "queue", "quopri", "random", "re", "reprlib", "runpy", "sched", "secrets", "selectors", "shelve", "shlex",
    "shutil", "smtplib", "socketserver", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "timeit", "tokenize", "trace", "traceback", "types", "unittest", "unittest.mock", "urllib.parse",
    "urllib.request", "urllib.robotparser", "uuid", "weakref", "xml.dom.minidom", "xml.etree.ElementTree",
    "xmlrpc.client", "zipfile",
]
# fmt: on

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} - Python {version} documentation</title>
<link rel="canonical" href="http://{host}{path}">
</head>
<body>
<header><a href="/">Python {version} documentation</a></header>
<nav>
<ul>
<li><a href="/">Start</a></li>
<li><a href="/topics/">Language topics</a></li>
<li><a href="/library/">Standard library</a></li>
{nearby}
</ul>
</nav>
<main>
{main}
</main>
<footer>
<p>Served from the Python interpreter on this machine. <a href="/internal/status.html">Server status</a></p>
</footer>
</body>
</html>
"""


@contextmanager
def serve() -> Iterator[Resolver]:
    """Run the site within the block.

    Yields:
        a resolver that leads the site's name to it, and other names where they belong.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="python-docs", daemon=True)
    thread.start()

    def resolve(host: str, port: int) -> list[tuple[str, int]]:
        return [("127.0.0.1", server.server_port)] if host == HOST else system_resolver(host, port)

    try:
        yield resolve
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- pages ------------------------------------------------------------------------------------------------------------


@lru_cache
def modules() -> list[str]:
    """The listed modules that this interpreter has."""
    return [name for name in _LISTED if _exists(name)]


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


@cache
def page(path: str) -> bytes | None:
    """The HTML at `path`; None if there is no such page."""
    folder, _, name = path.rpartition("/")
    name = name.removesuffix(".html")
    match folder, name:
        case "", "":
            return _render(path, "Start", _front_page())
        case "/topics", "":
            return _render(path, "Language topics", _index("Language topics", "/topics/", sorted(TOPICS)))
        case "/library", "":
            return _render(path, "Standard library", _index("Standard library", "/library/", modules()))
        case "/topics", name if name in TOPICS and path.endswith(".html"):
            return _render(path, _topic_title(name), _topic(name), _neighbors("/topics/", sorted(TOPICS), name))
        case "/library", name if name in modules() and path.endswith(".html"):
            return _render(path, name, _module(name), _neighbors("/library/", modules(), name))
        case "/internal", "status" if path.endswith(".html"):
            return _render(path, "Server status", "<h1>Server status</h1>\n<p>The server is running.</p>")
    return None


def paths() -> list[str]:
    """Paths of all pages that crawlers are invited to."""
    topics, library = (f"/topics/{name}.html" for name in sorted(TOPICS)), (f"/library/{n}.html" for n in modules())
    return ["/", "/topics/", "/library/", *topics, *library]


def _render(path: str, title: str, main: str, nearby: str = "") -> bytes:
    return _TEMPLATE.format(
        title=html.escape(title), version=_version(), host=HOST, path=path, main=main, nearby=nearby
    ).encode()


def _front_page() -> str:
    return (
        f"<h1>Python {_version()} documentation</h1>\n"
        f'<p>What the interpreter knows about itself: <a href="/topics/">{len(TOPICS)} topics</a> of the language and '
        f'<a href="/library/">{len(modules())} modules</a> of its standard library.</p>'
    )


def _index(title: str, folder: str, names: list[str]) -> str:
    return _links(title, [_link(folder, name) for name in names], level=1)


def _links(title: str, links: list[str], level: int = 2) -> str:
    items = "\n".join(f"<li>{link}</li>" for link in links)
    return f"\n<h{level}>{title}</h{level}>\n<ul>\n{items}\n</ul>"


def _neighbors(folder: str, names: list[str], name: str) -> str:
    """Links to the pages before and after."""
    at = names.index(name)
    around = {"Previous": at - 1, "Next": (at + 1) % len(names)}
    return "\n".join(f"<li>{word}: {_link(folder, names[i])}</li>" for word, i in around.items())


def _link(folder: str, name: str) -> str:
    return f'<a href="{folder}{name}.html">{html.escape(_topic_title(name) if folder == "/topics/" else name)}</a>'


def _topic_title(name: str) -> str:
    return TOPICS[name].strip().partition("\n")[0].replace('"', "")


def _topic(name: str) -> str:
    """A topic's text, and the topics and modules that pydoc's help names beside it."""
    related: dict[str, None] = {}
    for target in (*pydoc.Helper.topics.values(), *pydoc.Helper.keywords.values()):
        if isinstance(target, tuple) and target[0] == name:
            for word in target[1].split():
                related.update(dict.fromkeys(_related(word)))
    related.pop(_link("/topics/", name), None)
    return _blocks(TOPICS[name]) + (_links("See also", list(related)) if related else "")


def _related(word: str) -> list[str]:
    """Links to what pydoc's help calls `word`: a module, a topic, or nothing."""
    if word in modules():
        return [_link("/library/", word)]
    target = pydoc.Helper.topics.get(word) or pydoc.Helper.keywords.get(word.lower())
    name = target[0] if isinstance(target, tuple) else target
    return [_link("/topics/", name)] if name in TOPICS else []


class _Plain(pydoc._PlainTextDoc):  # type: ignore[name-defined]  # the stubs leave it out
    """pydoc's text without the bars beside classes."""

    def indent(self, text: str, prefix: str = "    ") -> str:
        return super().indent(text, "    ")


def _module(name: str) -> str:
    """A module's documentation, section by section, and the documented modules that it uses."""
    module = importlib.import_module(name)
    text = _ADDRESS.sub("", _Plain().document(module, name))
    parts = [f"<h1>{html.escape(name)}</h1>"]
    for section in re.split(r"\n(?=[A-Z][A-Z ]+\n)", text):
        heading, _, body = section.strip().partition("\n")
        if heading == "NAME":
            parts.append(_blocks(body.partition(" - ")[2]))
        elif heading not in ("FILE", "MODULE REFERENCE"):  # paths differ from machine to machine
            parts.append(f"<h2>{heading.capitalize()}</h2>\n{_blocks(textwrap.dedent(body))}")
    used = sorted({m.__name__ for _, m in inspect.getmembers(module, inspect.ismodule)} & set(modules()) - {name})
    if used:
        parts.append(_links("Uses", [_link("/library/", other) for other in used]))
    return "\n".join(parts)


def _blocks(text: str) -> str:
    """Plain text as HTML: underlined lines are headings, indented blocks are preformatted, the rest are paragraphs."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        if len(lines) == 2 and lines[1] and set(lines[1]) <= set("*=-~"):
            level = 1 if lines[1][0] == "*" else 2
            parts.append(f"<h{level}>{html.escape(lines[0].strip())}</h{level}>")
        elif all(line.startswith((" ", "\t")) for line in lines[1:] or lines):
            parts.append(f"<pre>{html.escape(textwrap.dedent(block))}</pre>")
        else:
            parts.append(f"<p>{html.escape(block.strip())}</p>")
    return "\n".join(parts)


def _version() -> str:
    return ".".join(platform.python_version_tuple()[:2])


# --- HTTP -------------------------------------------------------------------------------------------------------------

_ROBOTS = f"""User-agent: *
Disallow: /internal/

Sitemap: http://{HOST}/sitemap.xml
"""


def _sitemap() -> str:
    entries = "\n".join(f"<url><loc>http://{HOST}{html.escape(path)}</loc></url>" for path in paths())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}\n</urlset>\n'
    )


@lru_cache
def _last_modified() -> str:
    """When this interpreter's documentation was installed."""
    return format_datetime(datetime.fromtimestamp(int(Path(pydoc.__file__).stat().st_mtime), UTC), usegmt=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD as a well-behaved server does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body: bytes | None
        match path:
            case "/robots.txt":
                body, content_type = _ROBOTS.encode(), "text/plain; charset=utf-8"
            case "/sitemap.xml":
                body, content_type = _sitemap().encode(), "application/xml"
            case _:
                body, content_type = page(path), "text/html; charset=utf-8"
        if body is None:
            self._answer(404, b"<!DOCTYPE html><title>Not found</title><p>There is no such page.", "text/html", {})
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        validators = {"ETag": etag, "Last-Modified": _last_modified()}
        if self._unchanged(etag):
            self._answer(304, None, content_type, validators)
        else:
            self._answer(200, body, content_type, validators)

    do_HEAD = do_GET

    def _unchanged(self, etag: str) -> bool:
        """The entity tag decides where it is given, else the date: RFC 9110 (2022) section 13.2.2."""
        if tags := self.headers.get("If-None-Match"):
            return etag in [tag.strip() for tag in tags.split(",")]
        try:
            since = parsedate_to_datetime(self.headers.get("If-Modified-Since", ""))
        except ValueError:
            return False
        return parsedate_to_datetime(_last_modified()) <= since

    def _answer(self, status: int, body: bytes | None, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is not None and self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the crawler logs what it does."""
