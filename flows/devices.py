"""Which device a training may use: one training a GPU, whatever flow, deployment or person starts it.

The training itself reserves its device:

- on this machine by a lock on a file, one for each GPU, which the kernel releases when the holder dies;
- over all machines of a server by its global concurrency limit `training`, where it has one (`textmill up` makes it):
  that also bounds trainings on CPUs, and shows on the server's page of limits who waits.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from flows.limits import slots
from flows.store import try_lock

LIMIT = "training"
LOCKS = Path(tempfile.gettempdir())
log = logging.getLogger(__name__)


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    if not torch.cuda.is_available():
        return ["mps"] if torch.backends.mps.is_available() else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def reserved(device: str) -> Iterator[dict[str, str]]:
    """Hold a device for one training (`device` as in its configuration); waits, saying so, while all are taken.

    Gives the environment variables that confine the training's process to what it holds.
    """
    names = [] if device == "cpu" else gpus()
    with _one_of(names) if names else nullcontext() as name, slots([LIMIT]):
        yield {"CUDA_VISIBLE_DEVICES": name} if name and name != "mps" else {}


@contextmanager
def _one_of(names: list[str]) -> Iterator[str]:
    """Lock the first of these GPUs that is free."""
    files = {name: _open(LOCKS / f"textmill-gpu-{name}.lock") for name in names}
    try:
        waiting = False
        while (free := next(filter(lambda name: try_lock(files[name]), names), None)) is None:
            if not waiting:
                log.info("Another training uses the GPU; waiting for it")
                waiting = True
            time.sleep(0.5)  # polling, so that a cancellation is answered while we wait
        yield free
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _open(path: Path) -> int:
    """For reading, which is enough to lock it: the file may be another user's."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
    return os.open(path, os.O_RDONLY)
