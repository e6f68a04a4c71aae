"""Every deployed flow tells the server that it is alive while it works."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prefect.runtime import flow_run

from flows.pipeline.project import Project
from flows.service import deployments
from textmill.errors import UserError

PROJECT = Path(__file__).parents[3]
# Where each flow does its work; that of a stage alone does it where the pipeline does.
WORK = {"experiment": "flows.service.experiment.plan_experiment", "verify": "flows.service.verify.verify_artifacts"}


def deployed() -> list[str]:
    """The flows of this project's deployments."""
    return sorted({deployment.flow for deployment in deployments.declared(Project.open(PROJECT))})


@pytest.mark.parametrize("name", deployed())
def test_a_flow_tells_that_it_is_alive_while_it_works(name, prefect_server, config, tmp_path, monkeypatch):
    beats, beaten = [], threading.Event()

    def told(event: str, resource: dict[str, str]) -> None:
        beats.append((event, resource["prefect.resource.id"]))
        beaten.set()

    def work(*_: object) -> None:
        runs.append(f"prefect.flow-run.{flow_run.id}")
        assert beaten.wait(60), "it worked, and nobody heard of it"
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
