"""Checkpoints: folders that exist whole or not at all.

    model.safetensors     the weights to use
    config.json           architecture, vocabulary size, objective, and for information the run's settings
    training.safetensors  step, losses and optimizer state; of a last step that nothing continues from only its number
    metrics.jsonl         the curve up to this step
    checksums.json        SHA-256 of each of these

While a model is trained that is sharded over ranks, a file of each rank takes the place of the first and the third
(`modeling.training.checkpoints.sharded`). A result has no training state, and one that was fine-tuned on pairs of
sentences has the head of that task in `next_sentence.safetensors`; one that finds answers has its head in
`span.safetensors`.

Nothing is pickled: reading a pickle runs what a stranger's checkpoint says, and its bytes depend on more than the
content. Data order, dropout and masks are functions of (seed, step), so a step number is all that continuing exactly
needs beside weights and optimizer.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
from torch import Tensor

from modeling.config.network import MODEL_CONFIG, EncoderDecoderConfig, ModelConfig, RecurrentConfig, TransformerConfig
from modeling.networks.encoder_decoder import EncoderDecoder
from modeling.networks.language_model import LanguageModel
from modeling.networks.recurrent import RecurrentModel
from modeling.networks.transformer import GPT
from textmill.errors import UserError
from textmill.files import atomic_path, atomic_write, remove_temporary, seal_folder, sha256
from textmill.settings import output_settings
from tokenization.formats import load_tokenizer
from tokenization.tokenizer import Tokenizer

__all__ = [
    "CHECKSUMS", "CONFIG", "HIDDEN_PADDING", "METRICS", "NEXT_SENTENCE", "SPAN", "TRAINING", "WEIGHTS",
    "CheckpointConfig", "Checkpoints", "all_finite", "is_finite", "is_intact", "is_sharded", "link_or_copy",
    "load_model", "load_tokenizer_of", "pair_length_of", "publish_texts", "publish_weights", "seal_draft",
    "start_draft", "with_tied_head", "without_tied_head", "write_checkpoint", "write_tensors",
]  # fmt: skip

logger = logging.getLogger(__name__)

FORMAT = "textmill-checkpoint 1"
# What older versions did not record: the dropout of fine-tuning was that of the model, which is compared anyway, and
# how many windows pass together, and which inputs were read, is not known of them
UNRECORDED = {"run.dropout", "run.micro_batch", "run.processes", "run.inputs.tokens", "run.inputs.origin"}
NOT_RECORDED = "not recorded (another version wrote it)"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TRAINING = "training.safetensors"
METRICS = "metrics.jsonl"
CHECKSUMS = "checksums.json"
NEXT_SENTENCE = "next_sentence.safetensors"
HIDDEN_PADDING = "hidden"  # what `config.json` says of the padding of pairs of sentences: no token sees it
SPAN = "span.safetensors"


@dataclass(frozen=True)
class CheckpointConfig:
    """What `config.json` says: enough to build the model and to know how it came about.

    Attributes:
        model: the architecture.
        vocab_size: rows of the embedding.
        objective: causal models see what is before a position, masked ones and those that find spans (answers) the
            whole window, mixed ones do as a call asks. An encoder-decoder writes what is hidden in its source
            (denoising), or the other text of a pair.
        shift: masked: token i is predicted from position i - 1.
        run: settings that decided the weights. For information, and to tell whether a run can be continued: their names
            may be those of an older version.
    """

    model: ModelConfig
    vocab_size: int
    objective: Literal["causal", "masked", "mixed", "span", "denoising", "pairs"]
    shift: bool
    run: dict[str, Any]

    @property
    def continues(self) -> bool:
        """Whether the model learned to predict the next token from those before it."""
        return self.objective in ("causal", "mixed")

    @property
    def fills(self) -> bool:
        """Whether the model learned to predict hidden tokens of a window that it sees whole."""
        return self.objective in ("masked", "mixed")

    @property
    def attends_documents(self) -> bool:
        """Whether a position sees nothing of other documents in its window."""
        return self.run.get("attend") == "document"

    def build_model(self) -> LanguageModel:
        """A new model of this architecture, its weights from torch's global generator."""
        match self.model:
            case TransformerConfig():
                return GPT(self.model, self.vocab_size, causal=self.continues)
            case EncoderDecoderConfig():
                return EncoderDecoder(self.model, self.vocab_size)
            case RecurrentConfig():
                return RecurrentModel(self.model, self.vocab_size)

    def differences(self, other: CheckpointConfig, beside: Collection[str] = ()) -> list[str]:
        """Settings by their dotted names, as "optimizer.lr: 0.01 here, 0.02 there".

        Args:
            other: an earlier one, perhaps of an older version: what that did not record is no difference.
            beside: settings that are not compared.
        """
        named = set(output_settings(self.model)) | set(output_settings(other.model))
        own, others = (flatten(json.loads(each.to_json(named))) for each in (self, other))
        compared = (own.keys() | others.keys()) - set(beside) - (UNRECORDED - others.keys())
        return [
            f"{name}: {own.get(name, NOT_RECORDED)} here, {others.get(name, NOT_RECORDED)} there"
            for name in sorted(compared)
            if own.get(name, NOT_RECORDED) != others.get(name, NOT_RECORDED)
        ]

    def to_json(self, of_model: Collection[str] = ()) -> str:
        """As it is written.

        Args:
            of_model: settings of the model that are named even at a default that goes without saying.
        """
        named = {*output_settings(self.model), *of_model}
        fields = {
            "format": FORMAT, "objective": self.objective, "shift": self.shift, "vocab_size": self.vocab_size,
            "model": self.model.model_dump(include=named), "run": self.run,
        }  # fmt: skip
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, checkpoint: Path) -> CheckpointConfig:
        """
        Raises:
            UserError: the folder is not a checkpoint of this format.
        """
        path = checkpoint / CONFIG
        hint = "give the folder that pretrain or finetune wrote"
        if not path.is_file():
            raise UserError(f"{checkpoint} is not a checkpoint ({CONFIG} is missing); {hint}")
        try:
            fields = json.loads(path.read_text())
            if fields.get("format") != FORMAT:
                raise ValueError(f"format {fields.get('format')!r}")
            model = MODEL_CONFIG.validate_python(fields["model"])
            return cls(model, fields["vocab_size"], fields["objective"], fields["shift"], fields["run"])
        except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{checkpoint} is not a checkpoint this version reads ({reason}); {hint}") from error


def pair_length_of(checkpoint: Path, config: CheckpointConfig) -> int | None:
    """Most tokens of the pairs of sentences that a model was tuned on; None: it was tuned on running text.

    Raises:
        UserError: an older version tuned it, and showed it the padding.
    """
    if not (checkpoint / NEXT_SENTENCE).is_file():
        return None
    if config.run.get("padding") != HIDDEN_PADDING:
        raise UserError(f"{checkpoint} was tuned on pairs by a version that let models see padding; run finetune again")
    return min(config.run["pair_length"], config.model.context)


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        result |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def load_model(checkpoint: Path) -> tuple[LanguageModel, CheckpointConfig]:
    """The model in fp32 on the CPU, ready for evaluation, with what its `config.json` says.

    Raises:
        UserError: the folder is not a checkpoint, or its weights are damaged or not finite.
    """
    config = CheckpointConfig.read(checkpoint)
    model = config.build_model()
    try:
        weights = safetensors.torch.load_file(checkpoint / WEIGHTS)
        model.load_state_dict(with_tied_head(weights, model))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{checkpoint / WEIGHTS} cannot be read ({reason}); restore it or train again") from error
    if not all_finite(weights.values()):
        raise UserError(f"{checkpoint / WEIGHTS} holds weights that are not finite; train again with lower rates")
    return model.eval(), config


def load_tokenizer_of(checkpoint: Path, config: CheckpointConfig) -> Tokenizer:
    """The tokenizer beside a checkpoint's weights.

    Raises:
        UserError: it cannot be read, or has another vocabulary than the model.
    """
    tokenizer = load_tokenizer(checkpoint)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(
            f"{checkpoint}: the model has a vocabulary of {config.vocab_size} but the tokenizer beside it "
            f"{tokenizer.vocab_size}; put the tokenizer there that the model was trained with"
        )
    return tokenizer


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value of these tensors is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def with_tied_head(weights: dict[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """Weights of a file, which holds a shared matrix once, under all names that the model asks for."""
    return weights | {"head.weight": weights["embed.weight"]} if model.config.tied else weights


def without_tied_head(weights: dict[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """Weights of the model as a file holds them: contiguous, and a shared matrix once."""
    return {name: w.contiguous() for name, w in weights.items() if not (model.config.tied and name == "head.weight")}


# -- writing -----------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file in the safetensors format, with the permissions that the umask leaves.

    Not atomic: write to an `atomic_path`, or into a folder that is sealed afterwards.
    """
    path.touch()
    mode = path.stat().st_mode
    safetensors.torch.save_file(tensors, path, metadata)  # replaces the file by one that its owner alone may read
    path.chmod(mode)


def write_checkpoint(
    folder: Path, weights: dict[str, Tensor], config: CheckpointConfig, training: dict[str, Tensor], metrics: str
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: where it is to be; an older one there is replaced.
        weights: the weights to use.
        config: what `config.json` is to say.
        training: what continuing needs beside the weights.
        metrics: content of `metrics.jsonl`.
    """
    draft = start_draft(folder)
    try:
        write_tensors(draft / WEIGHTS, weights)
        write_tensors(draft / TRAINING, training)
        seal_draft(folder, config, metrics, {name: sha256(draft / name) for name in (WEIGHTS, TRAINING)})
    except BaseException:  # a full disk most likely, on which a part of a checkpoint is of no use
        shutil.rmtree(draft, ignore_errors=True)
        raise


def draft_path(folder: Path) -> Path:
    """Where a checkpoint is written before it is renamed to `folder`: the same name on every rank."""
    return folder.with_name(f".{folder.name}.tmp")


def start_draft(folder: Path) -> Path:
    """An empty folder at `draft_path`."""
    draft = draft_path(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def seal_draft(folder: Path, config: CheckpointConfig, metrics: str, checksums: dict[str, str]) -> None:
    """Add to a draft, whose tensors are written, the other files, and give it its place.

    Args:
        folder: where the checkpoint is to be.
        config: what `config.json` is to say.
        metrics: content of `metrics.jsonl`.
        checksums: SHA-256 of the files of tensors by name.
    """
    draft = draft_path(folder)
    (draft / CONFIG).write_text(config.to_json())
    (draft / METRICS).write_text(metrics)
    checksums = checksums | {name: sha256(draft / name) for name in (CONFIG, METRICS)}
    (draft / CHECKSUMS).write_text(json.dumps(checksums, indent=2))
    seal_folder(draft, folder)


def publish_weights(folder: Path, out: Path) -> None:
    """Give the weights of a checkpoint a name in `out` too: a hard link, or a copy on another file system."""
    source, place = folder / WEIGHTS, out / WEIGHTS
    if place.exists() and place.samefile(source):
        return  # renaming one name of a file to another of its names does nothing, and would leave both
    with atomic_path(place) as unfinished:
        link_or_copy(source, unfinished)


def link_or_copy(source: Path, place: Path) -> None:
    """Give a file another name: a hard link, or a copy on another file system, or on one without links."""
    try:
        place.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, place)


def publish_texts(out: Path, config: CheckpointConfig, metrics: str) -> None:
    """Write `config.json` and `metrics.jsonl` to `out`, each whole or not at all."""
    atomic_write(out / CONFIG, config.to_json())
    atomic_write(out / METRICS, metrics)


# -- reading -----------------------------------------------------------------------------------------------------------


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint's tensors are in files of the ranks, and not in one of weights and one of training state."""
    return not (folder / WEIGHTS).is_file()


def is_intact(folder: Path) -> bool:
    """Whether every file of a checkpoint is there with the content that was written."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return bool(checksums) and all(sha256(folder / name) == digest for name, digest in checksums.items())
    except (OSError, ValueError):
        return False


def is_finite(folder: Path) -> bool:
    """Whether every value of a checkpoint's tensors is finite."""
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            if not all_finite(file.get_tensor(name) for name in file.keys()):  # noqa: SIM118 - not a mapping
                return False
    return True


class Checkpoints:
    """The checkpoints of a run in progress: `step-00000100/` and so on below one folder."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def usable(self) -> Iterator[int]:
        """Steps of intact checkpoints of finite weights, newest first; others are named and passed over."""
        for step in reversed(self.steps()):
            path = self.path(step)
            if not is_intact(path):
                logger.warning("checkpoint %s is damaged; going back to the one before it", path)
            elif not is_finite(path):
                logger.warning("checkpoint %s holds weights that are not finite; going back past it", path)
            else:
                yield step

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which were passed over: they would count among the newest."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.path(later))

    def prune(self, also_keep: Collection[int | None]) -> None:
        """Delete all but the newest `keep` and those of `also_keep`, and leftovers of killed writers."""
        for step in self.steps()[: -self.keep]:
            if step not in also_keep:
                shutil.rmtree(self.path(step))
        remove_temporary(self.folder)
