"""Using a checkpoint: `textmill generate`, `fill`, `next-sentence`, `answer`, `evaluate`, `export`.

`questions` makes a set of questions to tune one on, and `cost` says what a training takes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.document import AsJson, print_document
from flows.cli.places import local, utf8

CheckpointPath = Annotated[
    Path,
    typer.Argument(
        parser=local, metavar="CHECKPOINT", help="Folder that pretrain or finetune wrote, or STORE/STAGE/FINGERPRINT"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]


def register(app: typer.Typer) -> None:
    for command in (generate, fill, next_sentence, questions, answer, evaluate, export, cost):
        app.command()(command)
    app.command("import")(import_checkpoint)


def generate(
    checkpoint: CheckpointPath,
    prompts: Annotated[
        list[str], typer.Argument(parser=utf8, metavar="PROMPT...", help="Several are continued as one batch")
    ],
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="New tokens at most")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens only")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest tokens that reach this probability")] = None,
    stop: Annotated[list[str], typer.Option(parser=utf8, metavar="TEXT", help="End before this text; repeatable")] = [],  # noqa: B006 - Typer's way
    seed: Annotated[int, typer.Option(help="The same seed gives the same text")] = 0,
    device: Device = "auto",
) -> None:
    """Continue a text, or write what a model trained on pairs answers to it. One prompt is written as it comes, several
    one below the other."""
    from modeling.inference.generate import Sampling, load, stream
    from modeling.inference.generate import generate as continue_texts

    loaded = load(checkpoint, device)
    sampling = Sampling(max_tokens, temperature, top_k, top_p, tuple(stop), seed)
    answers = loaded.config.objective == "pairs"
    if len(prompts) > 1:
        for prompt, continuation in zip(prompts, continue_texts(loaded, prompts, sampling), strict=True):
            typer.echo(prompt + ("\n" if answers else "") + continuation + "\n")
        return
    pieces = stream(loaded, prompts[0], sampling)
    first = next(pieces, "")  # before anything is written, so that a refusal is all there is
    typer.echo(("" if answers else prompts[0]) + first, nl=False)
    for piece in pieces:
        sys.stdout.flush()
        typer.echo(piece, nl=False)
    typer.echo()


def fill(
    checkpoint: CheckpointPath,
    text: Annotated[str, typer.Argument(parser=utf8, metavar="TEXT", help="Text with [MASK] where a token is missing")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Most probable tokens told for each blank")] = 5,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fill the blanks of a text with a fine-tuned checkpoint, and say what else would fit each."""
    from modeling.inference.generate import fill as fill_blanks
    from modeling.inference.generate import load

    filled = fill_blanks(load(checkpoint, device), text, top_k)
    if as_json:
        blanks = [[{"token": token, "probability": prob} for token, prob in guesses] for guesses in filled.candidates]
        print_document({"text": filled.text, "blanks": blanks})
        return
    typer.echo(filled.text)
    for number, guesses in enumerate(filled.candidates, start=1):
        shown = "  ".join(f"{token!r} {prob:.1%}" for token, prob in guesses)
        typer.echo(f"blank {number}: {shown}")


def next_sentence(
    checkpoint: CheckpointPath,
    first: Annotated[str, typer.Argument(parser=utf8, metavar="FIRST", help="A sentence")],
    seconds: Annotated[
        list[str], typer.Argument(parser=utf8, metavar="SECOND...", help="Sentences that may follow it")
    ],
    device: Device = "auto",
) -> None:
    """Say how probably sentences follow another, by a checkpoint that was fine-tuned on pairs."""
    from modeling.inference.next_sentence import next_sentence_probs

    probs = next_sentence_probs(checkpoint, [(first, second) for second in seconds], device)
    for prob, second in zip(probs, seconds, strict=True):
        typer.echo(f"{prob:6.1%}  {second}")


def questions(
    source: Annotated[
        Path,
        typer.Argument(
            parser=local,
            metavar="SOURCE",
            help="File of questions, contexts and answers (JSON lines, Parquet, CSV, SQuAD's JSON), or a corpus",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write: train.parquet and validation.parquet")],
    validation: Annotated[Path | None, typer.Option(help="File of the held-out questions")] = None,
    validation_fraction: Annotated[float, typer.Option(help="Without it: share of the documents held out")] = 0.1,
    per_document: Annotated[int, typer.Option(help="Questions made of a document of a corpus, at most")] = 40,
    impossible: Annotated[float, typer.Option(help="Share of the questions made that get no answer")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a set of questions to tune a model on: of a file, or by rules from a corpus.

    An answer that its context lacks is counted, and listed in not_found.jsonl.
    """
    from pydantic import ValidationError

    from modeling.answering.config import QuestionsConfig
    from modeling.answering.sets import make_set
    from textmill.errors import UserError

    corpus = source if source.is_dir() else None
    try:
        config = QuestionsConfig(
            path=None if corpus else str(source),
            validation=str(validation) if validation else None,
            validation_fraction=validation_fraction,
            per_document=per_document,
            impossible=impossible,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from error
    stats = make_set(config, corpus, out)
    if as_json:
        print_document(stats)
        return
    train, held_out = stats["train"], stats["validation"]
    lost = train["not_found"] + held_out["not_found"]
    typer.echo(f"{out}: {train['questions']:,} questions to train on, {held_out['questions']:,} held out")
    if lost:
        typer.echo(f"{lost:,} answers do not occur in their context: {out / 'not_found.jsonl'}")


def answer(
    checkpoint: CheckpointPath,
    question: Annotated[
        str | None, typer.Option("--question", "-q", parser=utf8, metavar="TEXT", help="Ask this")
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", parser=utf8, metavar="TEXT", help="Where the answer may be")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="File of questions and contexts; JSON lines come out. - reads JSON lines from standard input"
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer questions with a checkpoint that was tuned on some, from a context or, if it writes, without one.

    No answer is an empty one. Scores are the model's own probabilities.
    """
    from modeling.answering.answer import answer_questions
    from modeling.answering.files import parse_questions, read_questions
    from modeling.answering.questions import Question
    from textmill.errors import UserError

    if (question is None) == (file is None) or (file is not None and context is not None):
        raise UserError("give either --question, with its --context, or a --file of both")
    if question is not None:
        if not question.strip() or (context is not None and not context.strip()):
            raise UserError("the question or its context is empty")
        asked = [Question("", "", question, context, (), ())]
    elif file == Path("-"):
        asked = parse_questions(_standard_input(), "standard input")
    else:
        assert file is not None
        asked = read_questions(file, wants_answers=False)
    answers = answer_questions(checkpoint, asked, device)
    found = [
        {
            "id": put.id,
            "question": put.question,
            "answer": got.text,
            "score": got.score,
            "start": got.start,
            "end": got.end,
        }
        for put, got in zip(asked, answers, strict=True)
    ]
    if file is not None:
        for row in found:
            typer.echo(json.dumps(row, ensure_ascii=False))
    elif as_json:
        print_document(found[0])
    else:
        typer.echo(f"{answers[0].text or '(no answer)'}  {answers[0].score:.1%}")


def _standard_input() -> str:
    from textmill.errors import UserError

    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from None


def evaluate(
    checkpoint: CheckpointPath,
    data: Annotated[
        Path | None,
        typer.Argument(
            parser=local, metavar="[DATA]", help="Folder of token arrays, or a UTF-8 text file; or questions"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the token arrays, or of the set of questions")] = "validation",
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens between windows; fewer than the context give each more to go by")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Tokens, questions or examples of a task, at most")] = None,
    tasks: Annotated[
        list[str], typer.Option("--task", help="Task of lm-evaluation-harness instead of DATA; repeatable")
    ] = [],  # noqa: B006
    include: Annotated[Path | None, typer.Option(help="Folder with tasks of your own, in the harness's YAML")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint: perplexity and bits per byte on held-out text, or tasks.

    One that answers questions is measured by exact match and F1 on a file of them, or on what `questions` wrote.
    """
    from textmill.errors import UserError

    if (data is None) == (not tasks):
        raise UserError("give either DATA to measure on, or tasks: textmill evaluate CHECKPOINT --task NAME")
    if data is None:
        _print_tasks(_evaluate_tasks(checkpoint, tasks, include, limit, device), as_json=as_json)
        return
    from modeling.answering.files import is_questions

    if is_questions(data):
        from modeling.answering.answer import answers_questions, evaluate_answers

        if data.is_dir() or answers_questions(checkpoint):
            _print_scores(evaluate_answers(checkpoint, data, split, limit, device), as_json=as_json)
            return
    from modeling.inference.evaluate import Windows
    from modeling.inference.evaluate import evaluate as measure

    metrics = measure(checkpoint, data, Windows(split, stride, limit), device)
    if as_json:
        print_document(metrics)
        return
    typer.echo(f"{metrics['tokens']:,} tokens, {metrics['bytes']:,} bytes")
    typer.echo(f"loss           {metrics['loss']:.4f} nats a token")
    typer.echo(f"perplexity     {metrics['perplexity']:.2f}")
    typer.echo(f"bits per byte  {metrics['bits_per_byte']:.4f}")
    if "masked_accuracy" in metrics:
        typer.echo(f"hidden tokens  {metrics['masked_accuracy']:.1%} predicted, {metrics['masked_loss']:.4f} nats each")


def _print_scores(scores: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print_document(scores)
        return
    typer.echo(f"{scores['questions']:,} questions, {scores['answered']:,} answered")
    typer.echo(f"exact match    {scores['exact_match']:.1%}")
    typer.echo(f"F1             {scores['f1']:.1%}")


def _evaluate_tasks(
    checkpoint: Path, tasks: list[str], include: Path | None, limit: int | None, device: str
) -> dict[str, dict[str, float]]:
    from textmill.errors import UserError

    try:
        from modeling.inference.harness import run_tasks
    except ImportError as error:
        raise UserError("tasks need lm-evaluation-harness: pip install 'textmill[lm-eval]'") from error
    return run_tasks(checkpoint, tasks, include, limit, device)


def _print_tasks(results: dict[str, dict[str, float]], *, as_json: bool) -> None:
    if as_json:
        print_document(results)
        return
    for task, metrics in results.items():
        for name, value in metrics.items():
            typer.echo(f"{task}  {name.removesuffix(',none')}  {value:.4f}")


def export(
    artifact: Annotated[
        Path,
        typer.Argument(
            parser=local,
            metavar="ARTIFACT",
            help="Checkpoint, or snapshot of a crawl: a folder, or STORE/STAGE/FINGERPRINT",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder")],
    format: Annotated[
        Literal["hf", "warc"] | None,
        typer.Option(help="hf, of a checkpoint: for transformers' from_pretrained; warc, of a snapshot: a web archive"),
    ] = None,
) -> None:
    """Convert a checkpoint, with tokenizer and model card, or a crawl's snapshot for other programs."""
    from scraping.warc import is_snapshot
    from textmill.errors import UserError

    made = "warc" if is_snapshot(artifact) else "hf"
    if format not in (None, made):
        what = "a snapshot of a crawl" if made == "warc" else "not a snapshot of a crawl"
        raise UserError(f"{artifact} is {what}: leave out --format {format}")
    if made == "warc":
        _export_snapshot(artifact, out)
    else:
        _export_checkpoint(artifact, out)


def _export_snapshot(snapshot: Path, out: Path) -> None:
    from flows.cli.progress import progress_bar
    from scraping.warc import write_warc

    with progress_bar("writing") as progress:
        written = write_warc(snapshot, out, progress)
    typer.echo(f"{out}: {written.pages:,} pages and {written.redirects:,} redirects in {len(written.files)} WARC files")


def _export_checkpoint(checkpoint: Path, out: Path) -> None:
    from modeling.inference.export import REMOTE_CODE
    from modeling.inference.export import export as export_checkpoint

    architecture = export_checkpoint(checkpoint, out)
    note = "; load it with trust_remote_code=True" if (out / REMOTE_CODE).exists() else ""
    typer.echo(f"{out}: {architecture}{note}")


def import_checkpoint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What transformers' save_pretrained wrote, with its tokenizer")
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder")],
) -> None:
    """Make a checkpoint of a GPT-2 of transformers, or of what `export` wrote: exactly, or not at all."""
    from modeling.inference.importing import import_checkpoint as import_from

    imported = import_from(folder, out)
    model = imported.config.model
    typer.echo(f"{out}: {imported.config.objective}, {model.layers} layers, width {model.width}")
    if imported.added:
        new = f"; {imported.new_rows} of them with a new row, the mean of the others" if imported.new_rows else ""
        ids = ", ".join(f"{name} {number}" for name, number in imported.added.items())
        typer.echo(f"special tokens added by their ids: {ids}{new}")


def cost(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A pipeline's YAML file, e.g. configs/demo.yaml")],
    gpus: Annotated[str, typer.Option(help="How many of which, e.g. 8xH100")] = "1xH100",
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. `pretrain.depth=20`")
    ] = [],  # noqa: B006
    mfu: Annotated[float, typer.Option(help="Share of the peak FLOP/s that training reaches")] = 0.4,
    price: Annotated[float | None, typer.Option(help="Dollars a GPU hour; default: a usual price")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what pretraining a configuration takes: parameters, tokens, FLOPs, memory, time, and dollars."""
    from flows.pipeline.config import load_config, parse_overrides
    from modeling.config.objective import token_count
    from modeling.cost import training_cost
    from textmill.errors import UserError
    from textmill.progress import duration
    from tokenization.config import ENCODING_SIZES

    loaded = load_config(config, parse_overrides(overrides))
    if loaded.import_checkpoint:
        raise UserError(f"{config} has no pretraining: it starts from {loaded.import_checkpoint.path}")
    run, model = loaded.pretrain, loaded.pretrain.model
    vocab_size = loaded.train_tokenizer.planned_size()
    if vocab_size is None:
        raise UserError(
            f"the size of the encoding {loaded.train_tokenizer.encoding!r} is not known here; give one of "
            f"{', '.join(ENCODING_SIZES)}, or with --set train_tokenizer.encoding=null and a vocab_size"
        )
    taken = training_cost(run, vocab_size, gpus, mfu, price)
    if as_json:
        print_document({"vocab_size": vocab_size, **asdict(taken)})
        return
    parts = f"{model.cell} cells" if model.kind == "recurrent" else f"{model.heads} heads"
    fit = "fits" if taken.fits else "does not fit: lower pretrain.micro_batch, or set pretrain.parallel=fsdp"
    step = run.batch * token_count(run.window)
    gigabytes = 1e9
    lines = {
        "model": f"{model.layers} layers, width {model.width}, {parts}, context {model.context}, "
        f"vocabulary {vocab_size:,}",
        "parameters": f"{taken.parameters:,} ({taken.block_parameters:,} in blocks)",
        "training": f"{run.steps:,} steps of {step:,} tokens = {taken.tokens:,} tokens, "
        f"{taken.tokens / taken.parameters:.1f} a parameter",
        "compute": f"{taken.flops:.3g} FLOPs, {taken.flops_per_token:,} a token",
        "memory": f"{taken.memory / gigabytes:.1f} of {taken.device_memory / gigabytes:.0f} GB a device: {fit}",
        "": f"{taken.state_memory / gigabytes:.1f} GB weights and optimizer, "
        f"{taken.activation_memory / gigabytes:.1f} GB activations of {taken.windows_per_device} windows",
        "time": f"{duration(taken.seconds)} on {taken.devices}x{taken.gpu} at {mfu:.0%} of the peak",
        "cost": f"${taken.dollars:,.2f}",
    }
    if run.depth:
        rates = ("matrix_lr", "embedding_lr", "head_lr", "weight_decay")
        lines[f"depth {run.depth}"] = ", ".join(f"{rate} {getattr(run.optimizer, rate):g}" for rate in rates)
    for name, line in lines.items():
        typer.echo(f"{name:<12}{line}")
