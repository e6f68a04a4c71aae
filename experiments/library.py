"""Text that every interpreter carries: the source code of its own library, and the help that it prints on the language.

What is measured on it needs no corpus, no network and no account.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["library_bytes", "library_files", "library_text"]

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}  # not everybody has them


@cache
def library_files() -> tuple[Path, ...]:
    """The library's modules, without its tests and without what was installed beside it."""
    root = Path(sysconfig.get_path("stdlib"))
    return tuple(path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & {*path.relative_to(root).parts})


def library_text(size: int, seed: int) -> list[str]:
    """About so many bytes of source, of files that the seed draws: as many of each as there are, the last one cut."""
    files = library_files()
    texts: list[str] = []
    left = size
    for number in np.random.default_rng(seed).permutation(len(files)):
        text = files[number].read_text("utf-8", errors="replace")[:left]
        texts.append(text)
        left -= len(text)
        if left <= 0:
            break
    return texts


def library_bytes(size: int, seed: int) -> NDArray[np.int64]:
    """The bytes of such a text, one number each, [N]."""
    return np.frombuffer("".join(library_text(size, seed)).encode(), np.uint8).astype(np.int64)
