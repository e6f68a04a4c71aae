"""Questions out of documents, by rules: what definitions, descriptions and changes say, and gaps to be filled.

A paragraph of a document gives a question where a rule knows its form. Its context is that paragraph and some of those
around it, so that the answer lies anywhere. Chance is hashes alone: the same documents give the same set.

The rules, in the order in which they are tried on a paragraph (the first one) and on a sentence:

    described   `name(arguments)` and below it "Return the …": what does name() return?
    changed     "Changed in version 3.8: …": in which version was it changed that …?
    raised      "X is raised if …": what is raised if …?
    defaulted   "X defaults to Y": what does X default to?
    called      "… is called X": what is … called?
    defined     "X is a …": what is X?
    left_out    a quoted term, a name or a number left out: what belongs into the gap?
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from modeling.answering.config import QuestionsConfig
from modeling.answering.questions import Question

__all__ = ["Document", "made_questions"]

MOST_ANSWER_WORDS = 20
GAP_WORDS = range(8, 31)  # of a sentence with a gap
GAPS = 3  # at most one such sentence in so many is asked
GAP = "____"

PARAGRAPH_END = re.compile(r"\n\s*\n")
SENTENCE = re.compile(r"[^\s](?:[^\n]*?(?<!\be\.g)(?<!\bi\.e)[.!?](?=\s|$)|[^\n]*)")
SIGNATURE = re.compile(
    r"(?:class |async )?([A-Za-z_][\w.]*)\(([^()]*(?:\([^()]*\)[^()]*)*)\)(?: -> .*| method of .*)?:?"
)
BULLET = re.compile(r"(?:[-*•]|\d+[.)])\s")

TERM = r"(?P<term>(?:An? |The )?[\"'“]?[\w()][\w()\".'’/-]*(?: [\w()\".'’/-]+){0,4}?)"
CHANGED = re.compile(r"(?P<how>Changed|Added|New|Deprecated) in version (?P<answer>\d+(?:\.\d+)+): (?P<what>.+?)\.?$")
RAISED = re.compile(
    r"(?:An? )?(?P<answer>[\"“]?\w+(?:Error|Exception|Warning|Exit|Iteration)[\"”]?)(?: exception)? is raised"
    r",? (?P<when>(?:if|when|unless) .+?)\.?$"
)
DEFAULTED = re.compile(TERM + r",? defaults to (?P<answer>[^,;]+?)(?:[,;].*)?\.?$")
CALLED = re.compile(r"(?P<term>[A-Z].{3,80}?) (?P<verb>is|are) (?P<how>called|known as|referred to as) "
                    r"(?:an? |the )?(?P<answer>[\"“*]?\w[\w -]{1,40}?[\"”*]?)(?:[,;(].*)?\.?$")  # fmt: skip
DEFINED = re.compile(TERM + r" (?P<verb>is|are) (?P<answer>(?:an?|the|one of|used|part of|short for) .+?)[.:]?$")
RETURN = re.compile(r"(?:Returns?|Yields?) (?P<answer>.+?)(?:[.:;](?=\s|$)|$)")
DOES = re.compile(r"(?P<answer>[A-Z][a-z]+ .+?)(?:[.;](?=\s|$)|$)")
GAP_TERM = re.compile(
    r"[\"“](?P<quoted>[^\"”“]{2,40})[\"”]"
    r"|(?<![\w/@.:-])(?P<name>\w+_\w+|\w+\.\w{2,}|\w+\(\)|[A-Z]\w*[a-z]\w*[A-Z]\w*)(?![\w@/-])"
    r"|(?<![\w$/.,’'-])(?P<number>\d{2,}(?:[.,]\d+)*)(?![\w,/-])"
)
# What a sentence begins with whose subject is elsewhere
POINTERS = frozenset({"it", "its", "this", "that", "these", "those", "there", "they"})
VAGUE = POINTERS | {
    "he", "she", "we", "you", "i", "which", "what", "who", "if", "when", "where", "here", "such", "one", "some", "any",
    "each", "all", "other", "another", "note", "both", "following", "result", "value", "default", "first", "second",
    "latter", "former", "return", "returns",
}  # fmt: skip


class Document(NamedTuple):
    """What a corpus has of a document."""

    id: str
    title: str
    text: str


class Found(NamedTuple):
    """A question, and where its answer begins and ends in what the rule was given."""

    question: str
    start: int
    end: int


def made_questions(documents: Iterable[Document], config: QuestionsConfig) -> Iterator[Question]:
    """The questions of documents, at most `config.per_document` of each. None is asked twice."""
    asked: set[str] = set()
    for document in documents:
        whole = [flowing(part) for part in PARAGRAPH_END.split(document.text) if part.strip()]
        paragraphs = [part for paragraph in whole for part in in_parts(paragraph, config.context_characters)]
        made: list[Question] = []
        for number, paragraph in enumerate(paragraphs):
            for found in found_in(paragraph, document.title):
                answer = paragraph[found.start : found.end]
                if found.question in asked or not is_answer(answer) or len(made) == config.per_document:
                    continue
                asked.add(found.question)
                key = f"{document.id}-{len(made):03d}"
                before, after = around(paragraphs, number, chance(config.seed, key), config.context_characters)
                start = len(before) + found.start
                context = before + paragraph + after
                made.append(Question(key, document.id, found.question, context, (answer,), (start,)))
        yield from with_impossible(made, config)


def is_answer(answer: str) -> bool:
    """Whether a part of a text can stand as an answer: a few words, with balanced brackets and quotes."""
    words = answer.split()
    balanced = all(answer.count(a) == answer.count(b) for a, b in ("()", "[]", "“”")) and answer.count('"') % 2 == 0
    return 0 < len(words) <= MOST_ANSWER_WORDS and any(map(str.isalnum, answer)) and balanced


def flowing(paragraph: str) -> str:
    """A paragraph whose lines are joined, but for the items of lists and what comes after the head of a function."""
    lines = [" ".join(line.split()) for line in paragraph.strip().splitlines()]
    text = lines[0]
    for before, line in pairwise(lines):
        text += ("\n" if SIGNATURE.fullmatch(before) or BULLET.match(line) else " ") + line
    return text


def in_parts(paragraph: str, characters: int) -> Iterator[str]:
    """A paragraph that is longer than a context in parts of whole sentences; without them it stays as it is."""
    start = end = 0
    for sentence in SENTENCE.finditer(paragraph):
        if end > start and sentence.end() - start > characters:
            yield paragraph[start:end]
            start = sentence.start()
        end = sentence.end()
    yield paragraph[start:]


# -- rules -------------------------------------------------------------------------------------------------------------


def found_in(paragraph: str, title: str) -> Iterator[Found]:
    """What the rules find in a paragraph of a document of this title."""
    if found := described(paragraph, title):
        yield found
        return
    for match in SENTENCE.finditer(paragraph):
        sentence = match.group()
        found = next(filter(None, (rule(sentence) for rule in RULES)), None)
        if found:
            yield Found(found.question, match.start() + found.start, match.start() + found.end)


def described(paragraph: str, title: str) -> Found | None:
    head, _, body = paragraph.partition("\n")
    signature = SIGNATURE.fullmatch(head)
    if not signature or not body or "__" in head or body.startswith(("Initialize self", "Method")):
        return None
    name = signature.group(1)
    named = f"the class {name}" if head.startswith("class ") else f"{name}()"
    of = f" of {title}" if 0 < len(title.split()) <= 3 and title != name else ""
    for pattern, question in ((RETURN, f"What does {named}{of} return?"), (DOES, f"What does {named}{of} do?")):
        if found := pattern.match(body):
            if head.startswith("class "):
                question = f"What is {named}{of}?"
            offset = len(head) + 1
            return Found(question, offset + found.start("answer"), offset + found.end("answer"))
    return None


def changed(sentence: str) -> Found | None:
    if not (found := CHANGED.match(sentence)):
        return None
    how, what = found["how"].lower(), found["what"]
    of = {"changed": "was it changed", "deprecated": "was it deprecated"}.get(how, "is it new")
    return Found(f"In which version {of}: {what}?", *found.span("answer"))


def raised(sentence: str) -> Found | None:
    found = RAISED.match(sentence)
    return Found(f"What is raised {found['when']}?", *found.span("answer")) if found else None


def defaulted(sentence: str) -> Found | None:
    found = DEFAULTED.match(sentence)
    if not found or is_vague(found["term"]):
        return None
    return Found(f"What does {uncapitalized(found['term'])} default to?", *found.span("answer"))


def called(sentence: str) -> Found | None:
    found = CALLED.match(sentence)
    if not found or is_vague(found["term"]):
        return None
    how = {"called": "called", "known as": "known as", "referred to as": "referred to as"}[found["how"]]
    return Found(f"What {found['verb']} {uncapitalized(found['term'])} {how}?", *found.span("answer"))


def defined(sentence: str) -> Found | None:
    found = DEFINED.match(sentence)
    if not found or is_vague(found["term"]):
        return None
    return Found(f"What {found['verb']} {uncapitalized(found['term'])}?", *found.span("answer"))


def left_out(sentence: str) -> Found | None:
    words = sentence.split()
    is_prose = re.match(r"[A-Z][^#|=<>]*\.$", sentence)
    if len(words) not in GAP_WORDS or not is_prose or is_vague(sentence) or chance(0, sentence) % GAPS:
        return None
    terms = [m for m in GAP_TERM.finditer(sentence) if m.start() and sentence.count(m.group()) == 1]
    if not terms:
        return None
    start, end = (chosen := terms[chance(1, sentence) % len(terms)]).span(chosen.lastgroup or 0)
    return Found(f"What belongs into the gap: {sentence[:start]}{GAP}{sentence[end:]}", start, end)


RULES = (changed, raised, defaulted, called, defined, left_out)


def is_vague(term: str) -> bool:
    """Whether a subject only points to something else, so that a question about it means nothing by itself."""
    words = re.findall(r"\w+", term.lower())
    content = [word for word in words if word not in ("a", "an", "the")]
    return not content or content[0] in VAGUE or len(content[0]) < 2 or not POINTERS.isdisjoint(words[:5])


def uncapitalized(term: str) -> str:
    """A subject inside a question: "The list" is "the list", and a name stays a name."""
    first, _, rest = term.partition(" ")
    return f"{first.lower()} {rest}" if rest and first in ("A", "An", "The") else term


# -- contexts ----------------------------------------------------------------------------------------------------------


def around(paragraphs: list[str], number: int, seed: int, characters: int) -> tuple[str, str]:
    """What stands before and after a paragraph in its context, whole paragraphs, together about as long as asked."""
    room = max(0, characters - len(paragraphs[number]))
    room_before = seed % (room + 1)
    before = after = ""
    place = number - 1
    while place >= 0 and len(before) + len(paragraphs[place]) <= room_before:
        before = paragraphs[place] + "\n\n" + before
        place -= 1
    place = number + 1
    while place < len(paragraphs) and len(before) + len(after) + len(paragraphs[place]) <= room:
        after += "\n\n" + paragraphs[place]
        place += 1
    return before, after


def with_impossible(made: list[Question], config: QuestionsConfig) -> Iterator[Question]:
    """The questions, a share of them with the context of another one of the document that lacks their answer."""
    for place, question in enumerate(made):
        drawn = chance(config.seed + 1, question.id) / 2**64
        others = (made[(place + step) % len(made)].context or "" for step in range(1, len(made)))
        strange = next((other for other in others if question.answers[0].lower() not in other.lower()), None)
        if drawn < config.impossible and strange is not None:
            yield Question(question.id, question.document, question.question, strange, (), ())
        else:
            yield question


def chance(seed: int, key: str) -> int:
    """A number below 2^64 that only these two decide."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode(errors="surrogatepass")).digest()[:8])
