"""Hugging Face's `tokenizer.json`, written and read: the ids are the same on both sides, or the file is refused.

- `schema.py`: the allow-list of what is read. A field that is not there, or has another value, is an error that names
  it.
- `reading.py`: a `tokenizer.json`, and what lies beside it, to a tokenizer.
- `writing.py`: a tokenizer to `tokenizer.json` and `tokenizer_config.json`.

What both sides have to know:

- Hugging Face ignores the `id` of an added token. It takes the one of the vocabulary, or else numbers on from the
  vocabulary's size. So special and added tokens are written into the vocabulary, where they may lie anywhere.
- A vocabulary has one id for a string. A learned token whose string is a special token too is written with `HIDDEN`
  before it. Text never makes that token, for the special token is taken out first; the decoder removes the mark.
"""

from tokenization.hugging_face.reading import from_hugging_face, tokens_around
from tokenization.hugging_face.schema import HUGGING_FACE, USAGE
from tokenization.hugging_face.writing import check_hugging_face, write_hugging_face

__all__ = [
    "HUGGING_FACE", "USAGE", "check_hugging_face", "from_hugging_face", "tokens_around", "write_hugging_face",
]  # fmt: skip
