"""Checkpoints of a model that is sharded over ranks.

Each rank writes one file, `shard-00001-model-00001-of-00001.safetensors` and so on, with its part of every tensor and
the place of that part. Reading asks for tensors by name and fills whatever part of them a rank holds now: the files do
as well for another number of ranks or for one process, and so do the files of a checkpoint that one process wrote.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from modeling.checkpoint import CheckpointConfig, draft_path, seal_draft, start_draft
from modeling.training.distributed import Ranks
from modeling.training.state import LOSSES
from textmill.files import sha256

__all__ = ["fill", "losses", "read", "tensor_shapes", "write"]


def write(folder: Path, tensors: dict[str, Tensor], config: CheckpointConfig, metrics: str, ranks: Ranks) -> None:
    """Write a checkpoint, whole or not at all, by all ranks together; a tensor that every rank holds is written once.

    Args:
        folder: where it is to be.
        tensors: weights and training state, DTensors where they are sharded.
        config: what `config.json` is to say.
        metrics: content of `metrics.jsonl`.
        ranks: those that write.
    """
    if ranks.first:
        start_draft(folder)
    ranks.barrier()
    draft = draft_path(folder)
    dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(draft), save_distributed=True))
    own = {path.name: sha256(path) for path in draft.glob(f"shard-{ranks.rank + 1:05d}-*")}
    checksums: list[dict[str, str]] = [{}] * ranks.world
    dist.all_gather_object(checksums, own)
    if ranks.first:
        seal_draft(folder, config, metrics, {name: digest for written in checksums for name, digest in written.items()})


def fill(tensors: dict[str, Tensor], folder: Path) -> None:
    """Read the values of these tensors, or of this rank's parts of them, in place."""
    with warnings.catch_warnings():
        # ranks need not agree on who reads what, and the warning is about that
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(dict(tensors), storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)


def tensor_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every tensor, from the heads of the files."""
    stored = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (tensor.size, tensor.properties.dtype)
        for name, tensor in stored.items()
        if isinstance(tensor, TensorStorageMetadata)
    }


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor in full, on the CPU."""
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in tensor_shapes(folder).items()}
    fill(tensors, folder)
    return tensors


def losses(folder: Path) -> list[float]:
    """The losses of the last steps before a checkpoint, all of them if the version that wrote it kept them."""
    shapes = tensor_shapes(folder)
    if LOSSES not in shapes:
        return []
    values = torch.empty(shapes[LOSSES][0], dtype=torch.float64)
    fill({LOSSES: values}, folder)
    return [float(value) for value in values.tolist()]
