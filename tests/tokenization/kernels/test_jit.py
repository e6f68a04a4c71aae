"""The machine code of kernels is kept: loaded by the next process, discarded when any file of the package changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tokenization

USES_A_KERNEL = """
import sys
import numpy as np
from tokenization.kernels.candidates import with_room

rows = with_room(np.ones((3, 4), np.int64), 2, 9)
assert rows.shape == (11, 4) and rows[:2].sum() == 8, rows
print(sum(with_room.stats.cache_hits.values()), "numba.np.linalg" in sys.modules)
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package, with no machine code yet."""
    source = Path(tokenization.__file__).parent
    return Path(shutil.copytree(source, tmp_path / "tokenization", ignore=shutil.ignore_patterns("__pycache__")))


def use_a_kernel(package: Path) -> tuple[int, bool]:
    """In a new process: (kernels loaded from the cache, whether Numba's compiler was loaded)."""
    script = package.parent / "use_a_kernel.py"
    script.write_text(USES_A_KERNEL)
    environment = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits, compiler = done.stdout.split()
    return int(hits), compiler == "True"


def test_machine_code_is_loaded_without_the_compiler_until_a_file_changes(package):
    assert use_a_kernel(package) == (0, True)
    assert use_a_kernel(package) == (1, False)
    with (package / "kernels" / "jit.py").open("a") as file:
        file.write("\n")
    assert use_a_kernel(package) == (0, True)
