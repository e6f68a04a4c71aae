"""Every deployed flow tells the server that it is alive while it works."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Crashed

from flows.pipeline.project import Project
from flows.service import deployments
from flows.service.deploying import SHIPPED_AUTOMATIONS
from textmill.errors import UserError

PROJECT = Path(__file__).parents[3]
# Where each flow does its work; that of a stage alone does it where the pipeline does.
WORK = {"experiment": "flows.service.experiment.campaign", "verify": "flows.service.verify.verify_artifacts"}


def deployed() -> list[str]:
    """The flows of this project's deployments."""
    return sorted({deployment.flow for deployment in deployments.declared(Project.open(PROJECT))})


@pytest.mark.parametrize("name", deployed())
def test_a_flow_tells_that_it_is_alive_while_it_works(name, prefect_server, config, tmp_path, monkeypatch):
    beats, beaten = [], threading.Event()

    def told(event: str, resource: dict[str, str]) -> None:
        beats.append((event, resource["prefect.resource.id"]))
        beaten.set()

    def work(*_: object, **__: object) -> None:
        runs.append(f"prefect.flow-run.{flow_run.id}")
        assert beaten.wait(240), "it worked, and nobody heard of it"
        raise UserError("that is enough")

    runs: list[str] = []
    monkeypatch.setattr("flows.service.beats.FIRST_BEAT_SECONDS", 0.0)
    monkeypatch.setattr("flows.service.beats.emit_event", told)
    monkeypatch.setattr(WORK.get(name, "flows.pipeline.request.plan"), work)
    given = {"store": str(tmp_path / "store")} if name == "verify" else {"config": str(config)}
    if name == "experiment":
        given["name"] = "architecture"
    state = getattr(deployments, name)(**given, return_state=True)
    assert state.message == "Flow run encountered an exception: UserError: that is enough"
    assert beats == [("textmill.run.alive", runs[0])]


def test_a_live_run_that_was_taken_for_dead_is_running_again(prefect_server, config, monkeypatch):
    """As after a night of the server's machine: no beat arrived, and it acts before the next one."""
    (silent,) = [line for line in SHIPPED_AUTOMATIONS.read_text().splitlines() if "No heartbeat" in line]
    states: list[str] = []

    def work(*_: object) -> None:
        run = UUID(flow_run.id)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Crashed(message=silent.partition("message: ")[2]), force=True)
            deadline = time.monotonic() + 240
            while (state := client.read_flow_run(run).state.name) == "Crashed" and time.monotonic() < deadline:
                time.sleep(0.1)
        states.append(state)
        raise UserError("that is enough")

    monkeypatch.setattr("flows.service.beats.FIRST_BEAT_SECONDS", 0.0)
    monkeypatch.setattr("flows.service.beats.BEAT_SECONDS", 0.2)
    monkeypatch.setattr("flows.pipeline.request.plan", work)
    state = deployments.pipeline(config=str(config), return_state=True)
    assert states == ["Running"]
    assert state.name == "Failed"
