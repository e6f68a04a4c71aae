"""What Hugging Face's tokenizers do to a text before the split pattern cuts it, and what they know about its tokens.

    raw text          tokens that are looked for in it are taken out; between them is text …
    normalized text   … which is normalized; then the late tokens are taken out of it …
    spaced text       … and what is left gets a space before it, if it has none. The split pattern cuts that.

The order and every step are those of `tokenizers` (`AddedVocabulary`), whose ids must be reproduced.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import regex
from pydantic import BaseModel, ConfigDict, Field

from tokenization.config import END_OF_TEXT

__all__ = [
    "NFC_MAKES", "PLAIN", "ROLES", "UNTOLD", "Part", "Searches", "TextRules", "Usage", "normalize_nfc", "overlap",
]  # fmt: skip

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
USUAL_ROLES = {
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "mask_token": "[MASK]",
    "sep_token": "[SEP]",
    "cls_token": "[CLS]",
    "pad_token": "[PAD]",
}
Part = str | int  # a piece of text to cut into words, or the id of a token that was found
Normalizer = Literal["NFC"] | tuple[str, str]  # a normalization form, or (old, new): one text replaced by another

# Code points that are letters without a decomposition for Hugging Face's normalizer, which follows Unicode 9, and
# combining marks or parts of composed characters in a later Unicode (up to 17). The tests compare all code points.
_LATER = regex.compile(
    "[\u05c8\u05c9\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1af0\u1df6-\u1dfa\ua82c"
    "\U00010d24-\U00010d27\U00010d69-\U00010d6d\U00010eab\U00010eac\U00010ecb-\U00010ecf\U00010ef0-\U00010eff"
    "\U00010f46-\U00010f50\U00010f82-\U00010f85\U000105c0-\U000105ff\U00011070\U0001133b\U00011380-\U000113ff"
    "\U0001145e\U00011839\U0001183a\U00011930-\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011d42-\U00011d45"
    "\U00011d97\U00011f41\U00011f42\U00016100-\U0001613f\U00016d40-\U00016d7f\U00016ff0\U00016ff1\U0001d127\U0001d128"
    "\U0001d250-\U0001d252\U0001d25b\U0001d25c\U0001d25f\U0001d280\U0001d281\U0001e08f\U0001e130-\U0001e136\U0001e2ae"
    "\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef\U0001e5ee\U0001e5ef\U0001e6e3\U0001e6e6\U0001e6ee\U0001e6ef\U0001e6f5]"
)
NFC_MAKES = frozenset("K;`")  # of ASCII: of the Kelvin sign, the Greek question mark and the Greek varia
_BLANK = regex.compile(r"\s")


def normalize_nfc(text: str) -> str:
    """The text in normalization form C (UAX #15), as Hugging Face's `tokenizers` make it.

    Example:
        >>> normalize_nfc("cafe\\u0301")
        'café'
    """
    if text.isascii() or not _LATER.search(text):
        return unicodedata.normalize("NFC", text)  # which gives a normalized text back as it is
    pieces, end = [], 0
    for match in _LATER.finditer(text):  # nothing combines with a letter across such a code point
        pieces += [unicodedata.normalize("NFC", text[end : match.start()]), match.group()]
        end = match.end()
    return "".join([*pieces, unicodedata.normalize("NFC", text[end:])])


def overlap(a: str, b: str) -> bool:
    """Whether a text can have a place that belongs to both."""
    ends = range(1, min(len(a), len(b)))
    return a in b or b in a or any(a[-n:] == b[:n] or b[-n:] == a[:n] for n in ends)


class Searches(NamedTuple):
    """What finds special and added tokens, in a raw and in a normalized text; None where there are none."""

    early: re.Pattern[str] | None
    late: re.Pattern[str] | None


class TextRules(BaseModel):
    """What is done to a text before the split pattern cuts it.

    Attributes:
        added_tokens: text → id; unlike special tokens, they are found in every text.
        normalizers: what is applied to the text between the tokens that were found in it, in this order.
        late: the special and added tokens that are looked for in normalized text only.
        lstrip: those that take the blanks before them.
        rstrip: those that take the blanks after them.
        prefix_space: whether text after a token, or at the beginning, gets a space before it if it has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    added_tokens: dict[str, int] = {}
    normalizers: tuple[Normalizer, ...] = ()
    late: frozenset[str] = frozenset()
    lstrip: frozenset[str] = frozenset()
    rstrip: frozenset[str] = frozenset()
    prefix_space: bool = False

    def normalize(self, text: str) -> str:
        """The text after all normalizers."""
        for step in self.normalizers:
            text = normalize_nfc(text) if step == "NFC" else text.replace(*step)
        return text

    def makes(self, name: str) -> bool:
        """Whether normalizing may make this ASCII text of another one."""
        for step in self.normalizers:
            if step == "NFC":
                if NFC_MAKES.intersection(name):
                    return True
            elif not step[1] or overlap(step[1], name):
                return True
        return False

    def parts(self, text: str, tokens: Mapping[str, int], searches: Searches) -> Iterator[Part]:
        """The ids of the tokens in a text, and the pieces of text between them as they are to be cut into words.

        Args:
            text: any.
            tokens: text → id of what is found; other names that `searches` find stay text.
            searches: what finds the names of all special and added tokens.
        """
        for piece in self._found(text, tokens, searches.early):
            if isinstance(piece, int):
                yield piece
                continue
            for part in self._found(self.normalize(piece), tokens, searches.late):
                spaced = isinstance(part, int) or not self.prefix_space or part.startswith(" ")
                yield part if spaced else f" {part}"

    def _found(self, text: str, tokens: Mapping[str, int], search: re.Pattern[str] | None) -> Iterator[Part]:
        """The tokens in a text, and the texts between them."""
        end = 0
        for match in search.finditer(text) if search else ():
            name = match.group()
            if name not in tokens:
                continue
            start, stop = match.span()
            if name in self.lstrip:
                while start > end and _BLANK.match(text, start - 1):
                    start -= 1
            if name in self.rstrip:
                while _BLANK.match(text, stop):
                    stop += 1
            if name in self.lstrip:
                start = max(start, end)
            if start >= stop:  # the token before it took all of it as blanks
                continue
            if end < start:
                yield text[end:start]
            yield tokens[name]
            end = stop
        if end < len(text):
            yield text[end:]


PLAIN = TextRules()


class Usage(BaseModel):
    """What the special tokens are for: told to `transformers`, and without a meaning for the ids of a text.

    Attributes:
        roles: role in `transformers` (`ROLES`) → special token; None where the usual names tell it.
        post_processor: what puts tokens around a text, as in `tokenizer.json`.
        chat_template: the template of conversations.
        max_length: most tokens of a text that the model takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: dict[str, str] | None = None
    post_processor: dict[str, Any] | None = None
    chat_template: str | dict[str, str] | None = None
    max_length: int | None = Field(None, gt=0)

    def roles_of(self, special: Mapping[str, int]) -> dict[str, str]:
        """The roles of a tokenizer with these special tokens."""
        usual = {role: name for role, name in USUAL_ROLES.items() if name in special}
        return usual if self.roles is None else self.roles


UNTOLD = Usage()
