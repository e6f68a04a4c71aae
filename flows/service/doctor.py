"""What Textmill needs on a machine, checked one by one, each with its remedy: behind `textmill doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
from packaging.requirements import Requirement
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.engine.devices import gpus
from flows.pipeline.config import load_config
from flows.pipeline.project import Project
from flows.service.deployments import POOL
from flows.service.server import online
from flows.store.open import open_store
from scraping.crawling.rendering.chromium import check_browser
from scraping.crawling.source import load_source, shipped_sources
from textmill.errors import UserError

FREE_GIGABYTES = 10


@dataclass(frozen=True)
class Finding:
    """`note`: works, but not all of it; `problem`: something will fail."""

    status: Literal["ok", "note", "problem"]
    subject: str
    what: str
    remedy: str = ""


def examine(config: Path | None) -> Iterator[Finding]:
    """Every check in turn; `config` names the store, or else the project in the working directory does."""
    yield _python()
    yield from _packages()
    yield _device()
    yield from _store(config)
    yield from _sources()
    yield from _server()


def _python() -> Finding:
    return Finding("ok", "python", f"{sys.version.split()[0]}, {os.cpu_count()} processors")


def _packages() -> Iterator[Finding]:
    """The installed versions against what Textmill's own metadata asks for."""
    wrong: dict[Requirement, str] = {}
    for line in importlib.metadata.requires("textmill") or []:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong[wanted] = f"{wanted.name} is missing"
            continue
        if not wanted.specifier.contains(found.partition("+")[0], prereleases=True):
            wrong[wanted] = f"{wanted.name} is {found}, not {wanted.specifier}"
    if wrong:
        remedy = f"pip install {shlex.join(map(str, wrong))}"
        yield Finding("problem", "packages", "; ".join(wrong.values()), remedy)
    else:
        yield Finding("ok", "packages", f"as required; Prefect {importlib.metadata.version('prefect')}")


def _device() -> Finding:
    import torch

    from modeling.device import choose

    compute = choose()
    precision = str(compute.dtype).removeprefix("torch.")
    if compute.device.type == "cpu":
        built = "torch sees none" if torch.backends.cuda.is_built() else f"torch {torch.__version__} is a CPU build"
        return Finding(
            "note", "device", f"CPU in {precision}; no GPU ({built})",
            "enough for configs/demo.yaml; larger models need a GPU and a torch built for it",
        )  # fmt: skip
    name = torch.cuda.get_device_name() if compute.device.type == "cuda" else compute.device.type
    return Finding("ok", "device", f"{len(gpus())} × {name} in {precision}")


def _store(config: Path | None) -> Iterator[Finding]:
    try:
        store = open_store(load_config(config or Path(Project.open().main)).store)
        store.check_writable()
    except UserError as error:
        yield Finding("problem", "store", str(error), "mend it, or name another configuration with --config")
        return
    artifacts = list(store.artifacts())
    used = sum(artifact.manifest.size for artifact in artifacts) / 1e9
    yield Finding("ok", "store", f"{store.location}: {len(artifacts)} artifacts, {used:,.2f} GB")
    free, where = shutil.disk_usage(store.root).free / 1e9, f" at {store.root.resolve()}"
    if free < FREE_GIGABYTES:
        yield Finding(
            "note", "disk", f"{free:,.1f} GB free{where}", "textmill gc --dry-run shows what no configuration refers to"
        )
    else:
        yield Finding("ok", "disk", f"{free:,.0f} GB free{where}")


def _sources() -> Iterator[Finding]:
    try:
        project = Project.open()
    except UserError:  # not a project's folder, which the store's line says
        sources = [load_source(name) for name in shipped_sources()]
    else:
        try:
            sources = [crawl.source for crawl in project.crawls()]
        except UserError as error:
            yield Finding("problem", "source", str(error), "mend the file")
            return
    for source in sources:
        try:
            check_browser(source)
        except UserError as error:
            problem, _, remedy = str(error).rpartition(": ")
            yield Finding("note", "source", problem, remedy)
            continue
        try:
            source.user_agent_header()
            yield Finding("ok", "source", source.name)
        except UserError as error:
            # Without a contact only this source's crawls fail, and they say so.
            variable = re.search(r"set (\w+) to", str(error))
            remedy = f"export {variable[1]}=you@example.org, before `textmill up` too" if variable else "mend the file"
            yield Finding("note" if variable else "problem", "source", str(error), remedy)


def _server() -> Iterator[Finding]:
    address = PREFECT_API_URL.value()
    if not address:
        yield Finding(
            "note", "server", "none named: runs start an embedded one, and nothing is scheduled",
            "textmill up, then export PREFECT_API_URL=http://127.0.0.1:4200/api",
        )  # fmt: skip
        return
    try:
        httpx.get(f"{address}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        yield Finding(
            "problem", "server", f"{address} does not answer ({type(error).__name__})",
            "start it with `textmill up`, or unset PREFECT_API_URL",
        )  # fmt: skip
        return
    yield Finding("ok", "server", address)
    try:
        workers = online()
    except ObjectNotFound:
        yield Finding("problem", "worker", f"the server has no work pool {POOL!r}", "textmill deploy makes it")
        return
    with get_client(sync_client=True) as client:
        deployments = sum(deployment.work_pool_name == POOL for deployment in client.read_deployments())
    if workers:
        yield Finding("ok", "worker", ", ".join(workers))
    else:
        yield Finding("problem", "worker", "none is online, so nothing that is scheduled runs", "textmill worker")
    if deployments:
        yield Finding("ok", "deployments", str(deployments))
    else:
        yield Finding("problem", "deployments", "none", "textmill deploy")
