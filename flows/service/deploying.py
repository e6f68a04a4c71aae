"""What Textmill needs on a Prefect server: work pool, limits, automations and deployments."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.engine.devices import LIMIT, gpus
from flows.pipeline.project import Project
from flows.service import deployments
from flows.service.deployments import MARK, MODULE, POOL, SLUGS, Deployment, declared
from flows.service.form import run_form
from flows.service.programs import answers
from textmill.errors import UserError

Echo = Callable[[str], None]  # prints a line on the terminal
AUTOMATIONS = Path("automations.yaml")  # of a project, in place of those that come with Textmill
SHIPPED_AUTOMATIONS = Path(__file__).with_name("automations.yaml")
PAGE = 200  # deployments that the server lists at once
WORKING_DIRECTORY = "prefect.deployments.steps.set_working_directory"


def _never(titles: list[str]) -> bool:
    return False


@dataclass(frozen=True)
class DeployOptions:
    """How to deploy.

    Attributes:
        trainings: how many at once on all machines; if None, what the server has, or at first as many as this machine
            has GPUs, or 1.
        remove: asked with the names of deployments whose declaration is gone: whether to remove them.
        folder: where workers find the project; the working directory if None.
        gpu_variables: job variables of the runs on the queue `gpu`; others stay as the server has them.
    """

    trainings: int | None = None
    remove: Callable[[list[str]], bool] = _never
    folder: str | None = None
    gpu_variables: dict[str, Any] = field(default_factory=dict)


def deploy(options: DeployOptions, echo: Echo) -> None:
    """Put the work pool, the limit of trainings, the automations and the deployments that the project in the working
    directory declares on the server in Prefect's settings.

    Raises:
        UserError: the wrong folder, a mistake in one of its files, no server, or a deployment that it refuses.
    """
    wanted = declared(Project.open())
    check_server()
    with get_client(sync_client=True) as client:
        ensure_server_objects(client, options.trainings)
        put = _Deployments(client, options)
        try:
            done = put.all(wanted)
        except PrefectHTTPStatusError as error:
            raise UserError(f"the server refuses a deployment: {error}") from error
        for action, titles in done.items():
            if titles:
                echo(f"{action:<10} {', '.join(titles)}")
        for title, when in put.schedules(wanted):
            echo(f"scheduled  {title} {when}")
        if gone := put.gone(wanted):
            titles = sorted(gone)
            if options.remove(titles):
                for deployment in gone.values():
                    put.remove(deployment.id)
                echo(f"removed    {', '.join(titles)}")
            else:
                echo(f"left alone {', '.join(titles)}: not declared any more; `textmill deploy --prune` removes them")
    echo(f"Deployments ready: start them in the UI, or with `prefect deployment run {wanted[0].title}`")


@dataclass
class _Deployments:
    """Those of a server's work pool, brought to what a project declares."""

    client: SyncPrefectClient
    options: DeployOptions
    known: dict[str, DeploymentResponse] = field(init=False)  # by title

    def __post_init__(self) -> None:
        here = self.options.folder or str(Path.cwd())
        self.pull_steps = [{WORKING_DIRECTORY: {"directory": here}}]
        self.known = self._read()

    def _read(self) -> dict[str, DeploymentResponse]:
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
        found: list[DeploymentResponse] = []
        while page := self.client.read_deployments(work_pool_filter=pool, limit=PAGE, offset=len(found)):
            found += page
        flows = {flow: self.client.read_flow(flow).name for flow in {deployment.flow_id for deployment in found}}
        return {f"{flows[deployment.flow_id]}/{deployment.name}": deployment for deployment in found}

    def all(self, wanted: Iterable[Deployment]) -> dict[str, list[str]]:
        """Create what is missing and update what is different; the titles by what was done."""
        done: dict[str, list[str]] = {"created": [], "updated": [], "unchanged": []}
        for deployment in wanted:
            flow: Flow[..., Any] = getattr(deployments, deployment.flow)
            before = self.known.get(deployment.title)
            payload = self._payload(deployment, flow, before)
            if before and _is_like(before, payload):
                action, there = "unchanged", before.id
            else:
                flow_id = before.flow_id if before else self.client.create_flow_from_name(flow.name)
                action, there = "updated" if before else "created", self.client.create_deployment(flow_id, **payload)
            self._put_triggers(there, deployment.triggers)
            done[action].append(deployment.title)
        if any(done[action] for action in ("created", "updated")):
            self.known = self._read()
        return done

    def _put_triggers(self, deployment: UUID, triggers: Iterable[dict[str, Any]]) -> None:
        """Make the automations that a deployment owns; whether one is enabled stays. They are made anew, because the
        server refuses to update an automation that has an owner."""
        automations = []
        for trigger in triggers:
            described = DeploymentEventTrigger.model_validate(trigger)
            described.set_deployment_id(deployment)
            automations.append(automation := described.as_automation())
            for known in self.client.read_automations_by_name(automation.name):
                automation.enabled = known.enabled
                self.client.delete_automation(known.id)
        self._remove_triggers(deployment)
        for automation in automations:
            self.client.create_automation(automation)

    def _remove_triggers(self, deployment: UUID) -> None:
        self.client.delete_resource_owned_automations(f"prefect.deployment.{deployment}")

    def remove(self, deployment: UUID) -> None:
        """Remove a deployment and the automations that it owns."""
        self._remove_triggers(deployment)
        self.client.delete_deployment(deployment)

    def _payload(
        self, deployment: Deployment, flow: Flow[..., Any], before: DeploymentResponse | None
    ) -> dict[str, Any]:
        """What Prefect's own `prefect deploy` sends for the entry; what a person changed in the UI and no file says
        (whether a schedule is on, schedules of the person's own, job variables) as it is."""
        entry = deployment.entry()
        variables = self.options.gpu_variables if deployment.queue == "gpu" else {}
        return {
            "name": deployment.name,
            "version": flow.version,
            "description": deployment.description or flow.description,
            "entrypoint": entry["entrypoint"],
            "parameters": entry["parameters"],
            "parameter_openapi_schema": _form(deployment, flow),
            "enforce_parameter_schema": True,
            "tags": entry["tags"],
            "work_pool_name": POOL,
            "work_queue_name": deployment.queue,
            "concurrency_limit": entry["concurrency_limit"]["limit"],
            "concurrency_options": ConcurrencyOptions(collision_strategy=deployment.collision),
            "schedules": _schedules(deployment, before),
            "pull_steps": self.pull_steps,
            "job_variables": (before.job_variables if before else {}) | variables,
        }

    def schedules(self, wanted: Iterable[Deployment]) -> Iterator[tuple[str, str]]:
        """When what is declared runs by itself."""
        for deployment in wanted:
            if deployment.schedule:
                [schedule] = _of_files(self.known[deployment.title].schedules)
                yield deployment.title, f"at {deployment.schedule}" if schedule.active else "is switched off"

    def gone(self, wanted: Iterable[Deployment]) -> dict[str, DeploymentResponse]:
        """Those that an earlier `textmill deploy` of this project made and that are not declared any more."""
        titles = {deployment.title for deployment in wanted}
        return {
            title: deployment
            for title, deployment in self.known.items()
            if title not in titles
            and MARK in deployment.tags
            and (deployment.entrypoint or "").startswith(f"{MODULE}.")
            and deployment.pull_steps == self.pull_steps
        }


def _schedules(deployment: Deployment, before: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """All that a deployment is to have: the server drops those that are not sent."""
    there = before.schedules if before else []
    own = _of_files(there)
    schedules = [
        DeploymentScheduleCreate.model_validate(one.model_dump(include=set(DeploymentScheduleCreate.model_fields)))
        for one in there
        if one not in own
    ]
    if declared_schedule := deployment.schedule:
        slug = SLUGS[declared_schedule.active]
        switched = {one.slug: one.active for one in own}
        schedules.append(
            DeploymentScheduleCreate(
                schedule=CronSchedule(cron=declared_schedule.cron, timezone=declared_schedule.timezone),
                active=switched.get(slug, declared_schedule.active),
                slug=slug,
            )
        )
    return schedules


def _of_files(schedules: Iterable[Any]) -> list[Any]:
    """Those that a file asks for; a person added the others in the UI."""
    return [one for one in schedules if one.slug in SLUGS.values()]


def _form(deployment: Deployment, flow: Flow[..., Any]) -> dict[str, Any]:
    """The run form: it shows what the deployment's configuration says."""
    if "config" not in deployment.parameters:
        return flow.parameters.model_dump(exclude_unset=True)
    settings = {key: value for key, value in deployment.parameters.items() if key not in ("config", "force", "name")}
    overrides = {deployment.flow: settings} if settings else None
    return run_form(deployment.flow, Path(deployment.parameters["config"]), overrides)


def _is_like(before: DeploymentResponse, payload: dict[str, Any]) -> bool:
    """Whether the server has a deployment as it would be sent."""
    limit = before.global_concurrency_limit

    def told(schedules: Iterable[Any]) -> list[tuple[Any, ...]]:
        return [
            (one.slug, getattr(one.schedule, "cron", None), one.schedule.timezone, one.active, one.parameters)
            for one in schedules
        ]

    has: dict[str, Any] = {
        name: getattr(before, name)
        for name in payload.keys() - {"schedules", "concurrency_limit", "concurrency_options"}
    }
    return (
        has == {name: payload[name] for name in has}
        and told(_of_files(before.schedules)) == told(_of_files(payload["schedules"]))
        and (limit.limit if limit else None) == payload["concurrency_limit"]
        and before.concurrency_options == payload["concurrency_options"]
    )


def ensure_server_objects(client: SyncPrefectClient, trainings: int | None = None) -> None:
    """Make the work pool, the limit of trainings (as many as this machine has GPUs, or else one) and the automations,
    or bring them up to date. A pool that is there stays as it is, and so does a limit unless `trainings` says another;
    the deployments make the pool's queues."""
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    if trainings is None:
        with suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=max(1, len(gpus()))))
    else:
        client.upsert_global_concurrency_limit_by_name(LIMIT, trainings)
    automations = AUTOMATIONS if AUTOMATIONS.is_file() else SHIPPED_AUTOMATIONS
    for document in yaml.safe_load(automations.read_text())["automations"]:
        _put_automation(client, AutomationCore.model_validate(document))


def _put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or update the one of its name: whether that is enabled stays, because a person who switched
    it on or off in the UI meant it."""
    known = client.read_automations_by_name(automation.name)
    if known:
        automation.enabled = known[0].enabled
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def check_server() -> None:
    address = PREFECT_API_URL.value()
    if not address:
        raise UserError("no Prefect server is named: export PREFECT_API_URL=http://HOST:4200/api")
    if not answers(address):
        raise UserError(f"no Prefect server answers at {address} (PREFECT_API_URL)")


def environment() -> dict[str, str]:
    """Environment variables for Prefect's processes and the runs that they start."""
    return {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
