"""The machine code of kernels is kept: loaded by the next process, discarded when a file of the kernels changes."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import textmill
import tokenization

USES_A_KERNEL = """
import sys
import time
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


ANNOUNCED = "Compiling the kernels of tokenization, once for this installation (10 to 30 seconds)\n"


def start(package: Path, **environment: str) -> subprocess.Popen[str]:
    script = package.parent / "use_a_kernel.py"
    script.write_text(USES_A_KERNEL)
    inherited = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    return subprocess.Popen([sys.executable, script], env=inherited | environment, stderr=subprocess.PIPE, text=True)


def test_compiling_is_announced_once_and_loading_is_not(package):
    for announced in (ANNOUNCED, ""):
        process = start(package)
        assert process.communicate()[1] == announced
        assert process.returncode == 0


def test_a_process_waits_for_another_that_compiles(package):
    folder = package / "kernels" / "__pycache__"
    folder.mkdir()
    with (folder / "compiling.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(package)
        assert process.stderr.readline() == "Another process is compiling the kernels of tokenization: waiting for it\n"
        time.sleep(0.2)
        assert process.poll() is None
        assert list(folder.glob("*.nbi")) == []
    assert process.communicate()[1] == ANNOUNCED


def test_of_processes_that_start_at_once_one_compiles(package):
    processes = [start(package) for _ in range(3)]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(ANNOUNCED in lines for lines in told) == 1


def test_where_machine_code_cannot_be_kept_that_is_said(package):
    for _ in range(2):
        process = start(package, NUMBA_CACHE_LOCATOR_CLASSES="ZipCacheLocator")  # of which none suits: as if read-only
        assert process.communicate()[1] == (
            "Compiling the kernels of tokenization (10 to 30 seconds), in every process anew: no folder can be written "
            "for their machine code; set NUMBA_CACHE_DIR to one\n"
        )
        assert process.returncode == 0
