"""The flows under names of their own, as `prefect.yaml` deploys them: an entrypoint is an attribute of a module."""

from __future__ import annotations

from flows.experiment import experiment
from flows.pipeline import FLOWS, pipeline

scrape = FLOWS["scrape"]
ingest = FLOWS["ingest"]
prepare = FLOWS["prepare"]
train_tokenizer = FLOWS["train_tokenizer"]
pretokenize = FLOWS["pretokenize"]
pretrain = FLOWS["pretrain"]
finetune = FLOWS["finetune"]
report = FLOWS["report"]

__all__ = [
    "experiment", "finetune", "ingest", "pipeline", "prepare", "pretokenize", "pretrain", "report", "scrape",
    "train_tokenizer",
]  # fmt: skip
