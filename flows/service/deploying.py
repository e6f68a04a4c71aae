"""What Textmill needs on a Prefect server: work pool, limits, automations and deployments."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.engine.devices import LIMIT, gpus
from textmill.errors import UserError
from textmill.processes import python_command

Echo = Callable[[str], None]  # prints a line on the terminal
POOL = "textmill"
DEPLOYMENTS = Path("prefect.yaml")
AUTOMATIONS = Path("automations.yaml")  # of a project, in place of those that come with Textmill
SHIPPED_AUTOMATIONS = Path(__file__).with_name("automations.yaml")


def deploy(trainings: int | None, echo: Echo) -> None:
    """Put the work pool, the limit of `trainings`, the automations and the deployments on the server in Prefect's
    settings.

    Raises:
        UserError: the wrong folder, no server, or a deployment that it refuses.
    """
    check_folder()
    check_server()
    with get_client(sync_client=True) as client:
        ensure_server_objects(client, trainings)
    done = subprocess.run(
        python_command("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)),
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{DEPLOYMENTS} could not be deployed:\n{done.stdout}{done.stderr}")
    echo("Deployments ready: start them in the UI, or with `prefect deployment run pipeline/demo`")


def ensure_server_objects(client: SyncPrefectClient, trainings: int | None = None) -> None:
    """Make the work pool, the limit of trainings (as many as this machine has GPUs, or else one) and the automations,
    or bring them up to date. A pool that is there stays as it is; the deployments make its queues."""
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    client.upsert_global_concurrency_limit_by_name(LIMIT, trainings or max(1, len(gpus())))
    automations = AUTOMATIONS if AUTOMATIONS.is_file() else SHIPPED_AUTOMATIONS
    for document in yaml.safe_load(automations.read_text())["automations"]:
        automation = AutomationCore.model_validate(document)
        known = client.read_automations_by_name(automation.name)
        if known:
            automation.enabled = known[0].enabled  # a person who switched it on or off in the UI meant it
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)


def check_folder() -> None:
    if not DEPLOYMENTS.is_file():
        raise UserError(f"there is no {DEPLOYMENTS} here: run this in the folder of the project")


def check_server() -> None:
    address = PREFECT_API_URL.value()
    if not address:
        raise UserError("no Prefect server is named: export PREFECT_API_URL=http://HOST:4200/api")
    if not answers(address):
        raise UserError(f"no Prefect server answers at {address} (PREFECT_API_URL)")


def answers(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def environment() -> dict[str, str]:
    """Environment variables for Prefect's processes and the runs that they start."""
    return {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
