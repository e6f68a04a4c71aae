"""Arguments of the command line: folders and files, which may also be artifacts of a remote store, and texts."""

from __future__ import annotations

from pathlib import Path


def local(place: str) -> Path:
    """A path as it is; for the URL of an artifact, the folder of its copy on this machine, made if need be."""
    from flows.store.open import is_remote, open_artifact

    return open_artifact(place).fetch() if is_remote(place) else Path(place)


def utf8(text: str) -> str:
    """A text as it is.

    Raises:
        UserError: it has bytes that are not UTF-8, which the shell passes on and a tokenizer would replace.
    """
    from textmill.errors import UserError

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{text!r} is not UTF-8 text (character {error.start}); convert it first") from None
    return text
