"""Checkpoints: folders that exist whole or not at all.

    model.safetensors     the weights to use
    config.json           architecture, vocabulary size, objective, the run's settings
    training.safetensors  step and optimizer state; of the last step only its number, as nothing continues from it
    metrics.jsonl         the curve up to this step
    checksums.json        SHA-256 of each of these

While a model is trained that is spread over ranks, a file of each rank takes the place of the first and the third
(`modeling.training.sharded`).

Nothing is pickled: that would run what a stranger's checkpoint says, and its bytes depend on more than the content.
Data order, dropout and masks are functions of (seed, step), so a step number is all that continuing exactly needs
beside weights and optimizer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
from torch import Tensor

from modeling.config import ModelConfig
from modeling.networks.transformer import GPT
from textmill.errors import UserError

log = logging.getLogger(__name__)

FORMAT = "textmill-checkpoint 1"
WEIGHTS, CONFIG, STATE, METRICS, CHECKSUMS = (
    "model.safetensors", "config.json", "training.safetensors", "metrics.jsonl", "checksums.json",
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What `config.json` says: enough to build the model and to know how it came about."""

    model: ModelConfig
    vocab_size: int
    objective: Literal["causal", "masked"]
    shift: bool  # masked: token i is predicted from position i - 1
    run: dict[str, Any]

    def build(self) -> GPT:
        return GPT(self.model, self.vocab_size, causal=self.objective == "causal")

    def differences(self, other: Description) -> list[str]:
        """Settings by their dotted names, as "optimizer.lr: 0.01 here, 0.02 there"."""
        own, others = flat(json.loads(self.to_json())), flat(json.loads(other.to_json()))
        names = sorted(own.keys() | others.keys())
        return [
            f"{name}: {own.get(name)} here, {others.get(name)} there"
            for name in names
            if own.get(name) != others.get(name)
        ]

    def to_json(self) -> str:
        fields = {
            "format": FORMAT, "objective": self.objective, "shift": self.shift, "vocab_size": self.vocab_size,
            "model": self.model.model_dump(), "run": self.run,
        }  # fmt: skip
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, checkpoint: Path) -> Description:
        """Raises UserError if the folder is no checkpoint of this format."""
        path = checkpoint / CONFIG
        hint = "give the folder that pretrain or finetune wrote"
        if not path.is_file():
            raise UserError(f"{checkpoint} is not a checkpoint ({CONFIG} is missing); {hint}")
        try:
            fields = json.loads(path.read_text())
            if fields.get("format") != FORMAT:
                raise ValueError(f"format {fields.get('format')!r}")
            model = ModelConfig.model_validate(fields["model"])
            return cls(model, fields["vocab_size"], fields["objective"], fields["shift"], fields["run"])
        except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{checkpoint} is not a checkpoint this version reads ({reason}); {hint}") from error


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def load_model(checkpoint: Path) -> tuple[GPT, Description]:
    """The model in fp32 on the CPU, ready for evaluation, with its description."""
    description = Description.read(checkpoint)
    model = description.build()
    try:
        weights = safetensors.torch.load_file(checkpoint / WEIGHTS)
        model.load_state_dict(tied(weights, model))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{checkpoint / WEIGHTS} cannot be read ({reason}); restore it or train again") from error
    return model.eval(), description


def tied(weights: dict[str, Tensor], model: GPT) -> dict[str, Tensor]:
    """Files hold a shared matrix once; the model asks for it under both names."""
    return weights | {"head.weight": weights["embed.weight"]} if model.config.tied else weights


def untied(weights: dict[str, Tensor], model: GPT) -> dict[str, Tensor]:
    return {name: w.contiguous() for name, w in weights.items() if not (model.config.tied and name == "head.weight")}


def write_file(path: Path, content: bytes) -> None:
    """Whole or not at all, and on the disk when this returns."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Likewise, in the safetensors format."""
    with whole(path) as temporary:
        safetensors.torch.save_file(tensors, temporary)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file under; leaving puts it on the disk and then in its place."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    sync(temporary)
    temporary.replace(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def draft_of(folder: Path) -> Path:
    """Where a checkpoint is written before it is renamed to `folder`."""
    return folder.with_name(f".{folder.name}.tmp")


def started(folder: Path) -> Path:
    """An empty draft."""
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def complete(folder: Path, checksums: dict[str, str]) -> None:
    """Give a draft its checksums, those of the tensors' files being known, and then its name."""
    draft = draft_of(folder)
    checksums = checksums | {name: sha256(draft / name) for name in (CONFIG, METRICS)}
    write_file(draft / CHECKSUMS, json.dumps(checksums, indent=2).encode())
    sync(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    sync(folder.parent)


def write(
    folder: Path, weights: dict[str, Tensor], description: Description, state: dict[str, Tensor], metrics: str
) -> None:
    """Write a checkpoint folder beside its place and rename it there."""
    draft = started(folder)
    write_tensors(draft / WEIGHTS, weights)
    write_tensors(draft / STATE, state)
    describe(draft, description, metrics)
    complete(folder, {name: sha256(draft / name) for name in (WEIGHTS, STATE)})


def describe(folder: Path, description: Description, metrics: str) -> None:
    write_file(folder / CONFIG, description.to_json().encode())
    write_file(folder / METRICS, metrics.encode())


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint's tensors are in one file of weights and one of the training state."""
    return (folder / WEIGHTS).is_file()


def publish(folder: Path, out: Path) -> None:
    """Give the weights of a checkpoint a name in `out` too, whole or not at all."""
    temporary = out / f".{WEIGHTS}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(folder / WEIGHTS)
    except OSError:  # a file system without links
        write_file(out / WEIGHTS, (folder / WEIGHTS).read_bytes())
    else:
        temporary.replace(out / WEIGHTS)
        temporary.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def intact(folder: Path) -> bool:
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return bool(checksums) and all(sha256(folder / name) == digest for name, digest in checksums.items())
    except (OSError, ValueError):
        return False


class Checkpoints:
    """The checkpoints of a run in progress: `step-00000100/` and so on below one folder."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def usable(self) -> Iterator[int]:
        """Steps of intact checkpoints, newest first; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            if intact(self.path(step)):
                yield step
            else:
                log.warning("checkpoint %s is damaged; going back to the one before it", self.path(step))

    def prune(self, also_keep: int | None) -> None:
        """Delete all but the newest `keep` (and the best one)."""
        for step in self.steps()[: -self.keep]:
            if step != also_keep:
                shutil.rmtree(self.path(step))
        for draft in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(draft)
