"""Everything that is compiled can be compiled beforehand."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scraping.corpus.kernels
import tokenization.kernels
from textmill.kernels.jit import Kernel

TEXTMILL = Path(sys.executable).parent / "textmill"


def kernels() -> set[str]:
    """All of them, as their machine code is called."""
    names = set()
    for room in (tokenization.kernels, scraping.corpus.kernels):
        for found in pkgutil.iter_modules(room.__path__):
            module = importlib.import_module(f"{room.__name__}.{found.name}")
            functions = [value.py_func for value in vars(module).values() if isinstance(value, Kernel)]
            names |= {f"{function.__module__.rpartition('.')[2]}.{function.__name__}" for function in functions}
    return names


@pytest.mark.slow
def test_after_compile_nothing_compiles(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "machine code")}

    def textmill(*arguments: object) -> str:
        """What a command says on standard error."""
        run = subprocess.run(
            [TEXTMILL, *map(str, arguments)], env=environment, capture_output=True, text=True, check=True
        )
        return run.stderr

    assert "Compiling the kernels of tokenization, once for this installation" in textmill("compile")
    kept = {re.sub(r"-\d+\.py\d+\.nbi$", "", path.name) for path in tmp_path.rglob("*.nbi")}
    assert kernels() - kept == set()
    text = tmp_path / "text.txt"
    text.write_text("Some words, isn't it, of a text: naïve, 北京 and more words of a text. " * 20, encoding="utf-8")
    for pattern in ("gpt2", "cl100k", "o200k"):
        folder = tmp_path / pattern
        assert textmill("tokenizer", "train", text, "-o", folder, "--vocab-size", 270, "--pattern", pattern) == ""
        assert textmill("tokenizer", "encode", folder, "words of a text") == ""
    assert textmill("compile") == ""
