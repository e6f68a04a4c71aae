"""The automations that find dead runs, on a real server: what is alive stays Running, what is dead ends as Crashed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest
import yaml
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Cancelling, Pending

from flows.service.beats import BEAT_SECONDS
from flows.service.deploying import SHIPPED_AUTOMATIONS

pytestmark = pytest.mark.slow
ENDLESS = {"steps": 1_000_000, "checkpoint_every": 500_000, "evaluate_every": 1_000_000, "log_every": 200}
SHORT = {"textmill-dead-runs": BEAT_SECONDS + 10, "textmill-never-started": 60.0}  # seconds, in place of the shipped


@dataclass
class LongEnough:
    """What was started, more than twice as long ago as a run may be silent; a terminal keeps one of the runs alive."""

    terminal: subprocess.Popen
    by_hand: UUID
    by_worker: UUID
    handed_out: UUID
    ended: list[UUID]


@pytest.fixture(scope="module")
def hasty(service) -> Iterator[None]:
    """The shipped automations once more, with less patience."""
    made = []
    with service.client() as client:
        for document in yaml.safe_load(SHIPPED_AUTOMATIONS.read_text())["automations"]:
            if document["name"] in SHORT:
                document["trigger"]["within"] = SHORT[document["name"]]
                document["name"] += "-hasty"
                made.append(client.create_automation(AutomationCore.model_validate(document)))
        yield
        for automation in made:
            client.delete_automation(automation)


@pytest.fixture(scope="module")
def long_enough(service, hasty) -> Iterator[LongEnough]:
    """Runs of every kind, all under one wait: at least one of the two that train waits for the only training slot."""
    ended = []
    for _ in range(3):  # nothing to build once the first has ended
        ended.append(service.start("scrape/scrape"))
        service.wait(ended[-1], "Completed")
    with service.client() as client:
        deployment = client.read_deployment_by_name("prepare/prepare")
        handed_out = client.create_flow_run_from_deployment(deployment.id, state=Pending()).id
    before = running(service)
    terminal = service.popen("run", "configs/demo.yaml", *(f"--set=pretrain.{k}={v}" for k, v in ENDLESS.items()))
    try:
        deadline = time.monotonic() + 120
        while not (started := running(service) - before):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        (by_hand,) = started
        by_worker = service.start("pipeline/demo", {"pretrain": {**ENDLESS, "seed": 20}})
        service.wait(by_worker, "Running")
        until = time.monotonic() + 2 * SHORT["textmill-dead-runs"]
        while time.monotonic() < until:
            for training in service.trainings():
                os.setpriority(os.PRIO_PROCESS, training, 19)  # other tests need the core more than it does
            time.sleep(1)
        yield LongEnough(terminal, by_hand, by_worker, handed_out, ended)
    finally:
        terminal.kill()
        terminal.communicate()
    with service.client() as client:
        client.set_flow_run_state(by_worker, Cancelling())
    service.wait(by_worker, "Cancelled", seconds=120)


def running(service) -> set[UUID]:
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with service.client() as client:
        return {run.id for run in client.read_flow_runs(flow_run_filter=wanted)}


def test_a_run_is_called_crashed_only_once_it_is_dead(service, long_enough):
    """One was started from a terminal, one by the worker."""
    by_hand, by_worker = long_enough.by_hand, long_enough.by_worker
    assert (service.state(by_hand).name, service.state(by_worker).name) == ("Running", "Running")
    long_enough.terminal.send_signal(signal.SIGKILL)
    assert "No heartbeat" in service.wait(by_hand, "Crashed", seconds=240).message
    assert service.state(by_worker).name == "Running"


def test_a_run_that_died_before_it_began_ends_as_crashed(service, long_enough):
    """Handed out to a worker that is no more, the run stays Pending."""
    assert "never begun" in service.wait(long_enough.handed_out, "Crashed").message


def test_a_run_that_has_ended_is_left_alone(service, long_enough):
    assert {service.state(run).name for run in long_enough.ended} == {"Completed"}
    with service.client() as client:
        wanted = EventFilter(event=EventNameFilter(name=["prefect.automation.action.failed"]))
        response = client.request("POST", "/events/filter", json={"filter": wanted.model_dump(mode="json")})
    assert response.json()["events"] == []
