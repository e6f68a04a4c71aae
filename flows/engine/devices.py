"""Which devices a training may use: one training a GPU, whatever flow, deployment or person starts it.

The training itself reserves its device:

- on this machine by a lock on a file, one for each GPU, which the kernel releases when the holder dies;
- over all machines of a server by its global concurrency limit `training`, where it has one (`textmill up` makes it):
  that also bounds trainings on CPUs, and shows on the server's page of limits who waits.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from flows.engine.stage import Context
from textmill.errors import UserError
from textmill.files import try_lock
from textmill.progress import Clock

LIMIT = "training"
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA's GPUs, of AMD's, and of either under WSL
LOCKS = Path(tempfile.gettempdir())
logger = logging.getLogger(__name__)


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    if sys.platform == "linux" and not any(map(os.path.exists, DRIVERS)):
        return []  # known without torch, which takes seconds to import
    import torch

    if not torch.cuda.is_available():
        return ["mps"] if torch.backends.mps.is_available() else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def reserved(device: str, processes: int, context: Context) -> Iterator[dict[str, str]]:
    """Hold what one training needs while the block lasts: a GPU for each process, if it is to use any, and a slot of
    the server's limit. Waits, saying so, while too few are free.

    Args:
        device: as in the training's configuration.
        processes: likewise.
        context: the run; its clock waits, its slots hold the server's limit.

    Yields:
        the environment variables that confine the training's processes to what it holds.

    Raises:
        UserError: there are not so many GPUs.
    """
    names = [] if device == "cpu" else gpus()
    if names and processes > len(names):
        raise UserError(f"{processes} processes want a GPU each and there are {len(names)}: lower `processes`")
    some: AbstractContextManager[list[str]] = _some_of(names, processes, context.clock) if names else nullcontext([])
    with some as held, context.slots([LIMIT]):
        yield {"CUDA_VISIBLE_DEVICES": ",".join(held)} if held and held != ["mps"] else {}


@contextmanager
def _some_of(names: list[str], count: int, clock: Clock) -> Iterator[list[str]]:
    """Lock so many of these GPUs, the first that are free; none is kept from others while we wait for more."""
    files = {name: _open(LOCKS / f"textmill-gpu-{name}.lock") for name in names}
    try:
        held = _lock_all(files, count)
        if not held:
            logger.info("Another training uses the GPU; waiting for it")
            with clock.waiting("the GPU, which another training uses"):
                while not (held := _lock_all(files, count)):
                    clock.sleep(0.5 + random.random() / 2)  # polling, so that a cancellation is answered meanwhile
        yield held
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _lock_all(files: dict[str, int], count: int) -> list[str]:
    """`count` names whose files are ours now, or none."""
    held = _lock_free(files, count)
    if len(held) == count:
        return held
    for name in held:
        fcntl.flock(files[name], fcntl.LOCK_UN)
    return []


def _lock_free(files: dict[str, int], count: int) -> list[str]:
    """At most `count` names whose files no process had locked, which are ours now."""
    return list(itertools.islice((name for name, file in files.items() if try_lock(file)), count))


def _open(path: Path) -> int:
    """For reading, which is enough to lock it: the file may be another user's."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
    return os.open(path, os.O_RDONLY)
