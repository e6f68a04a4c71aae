"""The machine code of kernels is kept: loaded by the next process, discarded when a file of the kernels changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import textmill
import tokenization

USES_A_KERNEL = """
import sys
import numpy as np
from tokenization.kernels import word_counts
from tokenization.kernels.cells import cells_of

words = [value for name, value in vars(word_counts).items() if name.startswith("Counted")][0]
three = words(np.frombuffer(b"abc", np.uint8), np.array([0, 1, 3]), np.array([5, 7]))
cells = cells_of(three, np.arange(256, dtype=np.int32), 256)
assert cells.symbols.tolist() == [0, 99, 100, 0, 0, 0, 0, 0, 0] and cells.weights.tolist() == [7], cells
print(sum(cells_of.stats.cache_hits.values()), "numba.np.linalg" in sys.modules)
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package, beside one of the ground floor, with no machine code yet."""
    for source in (Path(textmill.__file__).parent, Path(tokenization.__file__).parent):
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tokenization"


def use_a_kernel(package: Path) -> tuple[int, bool]:
    """In a new process: (kernels loaded from the cache, whether Numba's compiler was loaded)."""
    script = package.parent / "use_a_kernel.py"
    script.write_text(USES_A_KERNEL)
    environment = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits, compiler = done.stdout.split()
    return int(hits), compiler == "True"


def change(path: Path) -> None:
    with path.open("a") as file:
        file.write("\n")


def test_machine_code_is_loaded_without_the_compiler_until_a_kernel_changes(package):
    assert use_a_kernel(package) == (0, True)
    assert use_a_kernel(package) == (1, False)
    for kernels in (package / "kernels", package.parent / "textmill" / "kernels"):
        change(next(kernels.glob("*.py")))
        assert use_a_kernel(package) == (0, True)
    change(package / "text.py")
    assert use_a_kernel(package) == (1, False)


def test_machine_code_of_a_named_tuple_that_has_another_name_now_is_discarded(package):
    assert use_a_kernel(package) == (0, True)
    for path in (package / "kernels").glob("*.py"):
        path.write_text(path.read_text().replace("CountedWords", "CountedTokens"))
    assert use_a_kernel(package) == (0, True)
