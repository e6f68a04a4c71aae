"""import_checkpoint: a checkpoint of transformers -> a model to start from, with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.engine.page import Block, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, Store
from modeling.config.pretrain import ImportConfig


class ImportCheckpoint(Stage[ImportConfig]):
    """Weights of others, in place of a tokenizer and a pretraining of the pipeline's own."""

    name = "import_checkpoint"
    noun = "import"
    version = 1

    def build(self, job: Job[ImportConfig]) -> None:
        from modeling.cost import network_cost
        from modeling.inference.importing import read_checkpoint, write_imported

        imported = read_checkpoint(Path(job.config.path))
        write_imported(imported, job.out)
        model, vocab_size = imported.config.model, imported.config.vocab_size
        stats = {
            "parameters": network_cost(model, vocab_size).parameters,
            "layers": model.layers,
            "width": model.width,
            "context": model.context,
            "vocab_size": vocab_size,
            "objective": imported.config.objective,
            "added": imported.added,
            "new_rows": imported.new_rows,
        }
        (job.out / "stats.json").write_text(json.dumps(stats))

    def identity(self, config: ImportConfig, store: Store) -> Any:
        """The files that are read count by their names and by what is in them, wherever they lie."""
        return {"files": {file.name: store.file_digest(file) for file in config.files()}}

    def check_available(self, config: ImportConfig) -> None:
        from modeling.inference.importing import read_checkpoint

        read_checkpoint(Path(config.path))

    def label(self, config: ImportConfig) -> str:
        return Path(config.path).name

    def headline(self, stats: dict[str, Any]) -> str:
        return (
            f"{stats['objective']}, {stats['layers']} layers, width {stats['width']}, {stats['parameters']:,} "
            f"parameters, {stats['vocab_size']:,} tokens"
            + (f", {', '.join(stats['added'])} of them added" if stats["added"] else "")
        )

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['parameters']:,}", "parameters"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        if added := artifact.stats["added"]:
            yield Table(("special token that was added", "its id"), list(added.items()))


import_checkpoint = ImportCheckpoint()
