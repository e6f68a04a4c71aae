"""The course catalog at courses.umb.edu: one record per course page. An example of a record reader.

A source with `extractor: {kind: records, reader: scraping.sources.umb_courses:CourseReader}` names this class. Each
record is kept as structured data, and its text goes into the corpus as a document.

A course page has the title in an `h2`, descriptors as `<strong>Label:</strong>` followed by their text, and for each
term a table whose rows come in pairs: one with the session's main facts (cells named by `data-label`), one with the
rest (pairs of `class-div-header` and `class-div-info`). Listings of departments and courses hold no records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from bs4 import BeautifulSoup, NavigableString, Tag

__all__ = ["CourseReader"]

_COURSE_PAGE = re.compile(r"/course_info/(u?grd)_(?P<subject>.+)_(?P<term>all|\d{4} \w+)_(?P<number>[^_/]+)\Z")
_LEVELS = {"ugrd": "undergraduate", "grd": "graduate"}
_TERM = re.compile(r"\s*(?:\d{4}\s+\w+|\w+\s+\d{4})\s*\Z")
_ENDS_A_DESCRIPTOR = {"table", "h1", "h2", "h3", "h4", "div", "ul", "ol", "hr", "strong"}


class CourseReader:
    """A `scraping.extraction.extract.RecordReader` for course pages.

    Example:
        >>> reader = CourseReader()
        >>> for record in reader.records(html, url):  # doctest: +SKIP
        ...     print(reader.title(record))
        CS 110: Introduction to Computing
    """

    def records(self, html: str, url: str) -> Iterator[dict[str, Any]]:
        """The course of a `course_info` page: id, level, title, descriptors and sessions; nothing from other pages."""
        page = _COURSE_PAGE.search(unquote(url.partition("?")[0]))
        if page is None:
            return
        soup = BeautifulSoup(html, "lxml")
        content = soup.find(id="body-content") or soup
        title = content.find("h2", class_="page-title") or content.find(id="page-title")
        if title is None:
            return
        term = None if page["term"] == "all" else page["term"]
        yield {
            "id": "-".join(filter(None, (page["subject"], page["number"], term))).replace(" ", "-"),
            "course": f"{page['subject']} {page['number']}",
            "level": _LEVELS[page[1]],
            "title": _text(title),
            "descriptors": _descriptors(content),
            "sessions": _sessions(content, term),
        }

    def title(self, record: dict[str, Any]) -> str:
        """The course's number and name."""
        return f"{record['course']}: {record['title']}"

    def text(self, record: dict[str, Any]) -> str:
        """The course as a reader would want it: name, descriptors, then its sessions by term."""
        parts = [self.title(record)]
        for descriptor in record["descriptors"]:
            label, text = descriptor["label"], descriptor["text"]
            parts.append(text if label == "Description" else f"{label}: {text}")
        terms: dict[str, list[str]] = {}
        for session in record["sessions"]:
            terms.setdefault(session["term"] or "", []).append(_session_line(session))
        for term, lines in terms.items():
            parts.append("\n".join([f"Sessions in {term}:" if term else "Sessions:", *lines]))
        return "\n\n".join(parts)


def _descriptors(content: Tag) -> list[dict[str, str]]:
    """Labels and their texts, in the page's order; what stands there twice, once."""
    found: dict[tuple[str, str], None] = {}
    for label in content.find_all("strong"):
        name = _text(label)
        if name.endswith(":") and label.find_parent("table") is None and (text := _following_text(label)):
            found[name.rstrip(": "), text] = None
    return [{"label": label, "text": text} for label, text in found]


def _following_text(label: Tag) -> str:
    """The text between a label and the next label, or the next block."""
    pieces = []
    for node in label.next_siblings:
        if isinstance(node, Tag):
            if node.name in _ENDS_A_DESCRIPTOR:
                break
            pieces.append(" " if node.name == "br" else node.get_text(" "))
        elif isinstance(node, NavigableString):
            pieces.append(str(node))
    return " ".join("".join(pieces).split())


def _sessions(content: Tag, term: str | None) -> list[dict[str, Any]]:
    """The sessions of all terms, in the page's order; `term` is the URL's, if it names one."""
    sessions = []
    for row in content.find_all("tr", class_="class-info-rows"):
        session = {"term": term or _term_above(row)}
        for cell in row.find_all("td", attrs={"data-label": True}):
            session[_key(str(cell["data-label"]))] = _text(cell)
        rest = row.find_next_sibling("tr")
        if rest is not None and "extra-info" in rest.get_attribute_list("class"):
            for header in rest.find_all(class_="class-div-header"):
                info = header.find_next_sibling(class_="class-div-info")
                session[_key(_text(header))] = _text(info) if info else ""
        sessions.append({name: value for name, value in session.items() if value or name == "term"})
    return sessions


def _term_above(row: Tag) -> str | None:
    """The heading of the table that the row is in, where it names a term."""
    heading = row.find_previous(["h2", "h3", "h4"])
    return _text(heading) if heading is not None and _TERM.match(heading.get_text()) else None


def _session_line(session: dict[str, Any]) -> str:
    facts = (f"{name.replace('_', ' ')} {value}" for name, value in session.items() if name != "term")
    return f"- {'; '.join(facts)}"


def _text(node: Tag) -> str:
    """An element's text on one line."""
    return " ".join(node.get_text(" ").split())


def _key(label: str) -> str:
    """A label as a record's key: `Class Number:` becomes `class_number`."""
    return re.sub(r"\W+", "_", label.strip().rstrip(":").lower()).strip("_")
