"""The flows under names of their own, as a worker imports them, and the deployments that a project's files ask for.

`declared` is what `textmill deploy` puts on a server. `prefect.yaml` says the same for this project, so that
`prefect deploy --all` does so too; an entry of its list `deployments` is what `Deployment.entry` returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prefect import Flow

from experiments.catalog import NAMES as EXPERIMENTS
from flows.pipeline.chain import STAGES
from flows.pipeline.project import Crawl, Project
from flows.service.experiment import experiment
from flows.service.flows import pipeline, stage_flow
from flows.service.verify import verify
from scraping.crawling.source import Schedule
from textmill.errors import UserError

__all__ = ["MARK", "MODULE", "POOL", "SLUGS", "Deployment", "declared", "experiment", "pipeline", "verify"]

POOL = "textmill"  # the work pool
MARK = "textmill"  # a tag of all that `textmill deploy` makes, by which it knows what it may remove
MODULE = "flows.service.deployments"  # this one, in entrypoints
# Slugs of the schedule that a file asks for, by whether it asks for it to be on: a person's switch holds for as long as
# the files say the same.
SLUGS = {True: "declared", False: "declared-off"}
TRAINING = ("pretrain", "finetune", "answering")


def __getattr__(name: str) -> Flow[..., Any]:
    """The flow of a stage alone, under the stage's name; a run makes only the one that it needs."""
    if name in STAGES:
        return stage_flow(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Deployment:
    """What a person or a schedule can start.

    Attributes:
        flow: attribute of this module.
        name: what tells it from others of the flow.
        parameters: of the flow.
        tags: to find it by, in the UI.
        queue: `gpu` for what trains.
        description: for its page; the flow's if empty.
        collision: what becomes of a run that is due while another is at work: it waits, or is dropped.
        schedule: when it runs by itself.
        triggers: events that start it.
    """

    flow: str
    name: str
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    queue: Literal["cpu", "gpu"] = "cpu"
    description: str = ""
    collision: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    schedule: Schedule | None = None
    triggers: tuple[dict[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """What `prefect deployment run` calls it."""
        return f"{self.flow}/{self.name}"

    def entry(self) -> dict[str, Any]:
        """Itself as an entry of a `prefect.yaml`."""
        entry: dict[str, Any] = {
            "name": self.name,
            "entrypoint": f"{MODULE}.{self.flow}",
            "parameters": self.parameters,
            "tags": [MARK, *self.tags],
            "work_pool": {"name": POOL, "work_queue_name": self.queue},
            "concurrency_limit": {"limit": 1, "collision_strategy": self.collision},
        }
        if self.description:
            entry["description"] = self.description
        if schedule := self.schedule:
            off = {} if schedule.active else {"active": False}
            when = {"cron": schedule.cron, "timezone": schedule.timezone}
            entry["schedules"] = [{**when, "slug": SLUGS[schedule.active], **off}]
        if self.triggers:
            entry["triggers"] = list(self.triggers)
        return entry


def declared(project: Project) -> list[Deployment]:
    """The deployments that a project's files ask for: its pipelines, a crawl for each source, each stage alone where a
    pipeline has it, the experiments, and the verification of each store.

    Raises:
        UserError: a mistake in a source's file, or two deployments that would have one name.
    """
    crawls = project.crawls()
    found: dict[str, Deployment] = {}
    for deployment in (
        *_pipelines(project, crawls), *map(_crawl, crawls), *_stages(project), *_experiments(project), *_verify(project)
    ):  # fmt: skip
        if found.setdefault(deployment.title, deployment) is not deployment:
            raise UserError(f"two deployments would be called {deployment.title}: give the source another `name`")
    return list(found.values())


def _pipelines(project: Project, crawls: list[Crawl]) -> Iterator[Deployment]:
    for path, config in project.pipelines.items():
        name = path.rpartition("/")[2].removesuffix(".yaml")
        sources = {source.name for source in config.scrape.load()}
        recrawled = sorted(
            crawl.source.name for crawl in crawls if crawl.source.schedule and crawl.source.name in sources
        )
        yield Deployment(
            "pipeline", name, {"config": path}, ("pipeline", name), "gpu", config.description,
            schedule=config.schedule,
            triggers=(_when_changed(name, recrawled),) if recrawled else (),
        )  # fmt: skip


def _when_changed(name: str, sources: list[str]) -> dict[str, Any]:
    """An automation for people to switch on: a pipeline runs as soon as a crawl of its sources finds something new."""
    return {
        "name": f"textmill-{name}-sources-changed", "type": "event", "enabled": False,
        "expect": ["textmill.source.changed"], "match": {"textmill.label": sources},
    }  # fmt: skip


def _crawl(crawl: Crawl) -> Deployment:
    """A crawl that is asked for or due is a new one: the snapshot of the last time might still count as fresh. (Not by
    parameters of the schedule: Prefect forgets these when a person switches it off and on.)"""
    source, schedule = crawl.source, crawl.source.schedule
    if schedule and not crawl.wanted:
        schedule = schedule.model_copy(update={"active": False})
    return Deployment(
        "scrape", source.name, {"config": crawl.config, "sources": [crawl.entry], "force": True},
        ("scrape", source.name), description=source.description, collision="CANCEL_NEW",
        schedule=schedule,
    )  # fmt: skip


def _stages(project: Project) -> Iterator[Deployment]:
    for stage in STAGES:
        if config := project.config_with(stage):
            queue: Literal["cpu", "gpu"] = "gpu" if stage in TRAINING else "cpu"
            yield Deployment(stage, stage, {"config": config}, ("stage", stage), queue)


def _experiments(project: Project) -> Iterator[Deployment]:
    for name in EXPERIMENTS:
        yield Deployment("experiment", name, {"config": project.main, "name": name}, ("experiment", name), "gpu")


def _verify(project: Project) -> Iterator[Deployment]:
    """Reading a whole store takes its time, so a person switches the schedule on."""
    stores = dict.fromkeys(map(project.seen_from_folder, (config.store for config in project.pipelines.values())))
    for number, store in enumerate(stores, 1):
        name = "verify" if number == 1 else f"verify-{number}"
        weekly = Schedule(cron="0 1 * * 6", active=False)
        yield Deployment("verify", name, {"store": store}, ("verify",), schedule=weekly)
