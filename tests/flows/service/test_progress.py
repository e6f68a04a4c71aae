"""What a long stage shows on its run's page and in its log, on a real server."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterTaskRunId
from prefect.client.schemas.objects import Artifact
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.service.progress import StageProgress


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Every call is shown: nobody has to wait for the next one that is due."""
    monkeypatch.setattr("flows.service.progress.PAGE_SECONDS", 0.0)
    monkeypatch.setattr("flows.service.progress.LOG_SECONDS", 0.0)


def shown() -> list[Artifact]:
    """What the server has on the page of the task that asks."""
    of_task = ArtifactFilterTaskRunId(any_=[TaskRunContext.get().task_run.id])
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(task_run_id=of_task))


@contextmanager
def server_away():
    """Connections to the server are refused."""

    def refuse(transport: httpx.HTTPTransport, request: httpx.Request) -> None:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        patch.setattr(httpx.HTTPTransport, "handle_request", refuse)
        yield


def in_a_task(work):
    """Do this work inside a task of a flow; what it returns."""

    @flow
    def one_stage():
        return task(work, persist_result=False)()

    return one_stage()


def test_work_of_unknown_total_has_one_note_that_follows_it(prefect_server):
    def crawl():
        with StageProgress("scrape site", get_run_logger()) as progress:
            pages = []
            for done, queue in ((1, 40), (1234, 1056)):
                progress(done, unit="pages", queue=queue, per_host_delay=0.25)
                pages.append(shown())
        return [*pages, shown()]

    first, second, last = in_a_task(crawl)
    assert [len(page) for page in (first, second, last)] == [1, 1, 1]
    assert first[0].id == second[0].id
    assert "**scrape site**: 1 pages · queue 40 · per host delay 0.25" in first[0].data
    assert "1,234 pages · queue 1,056" in second[0].data
    assert last[0].data == second[0].data


def test_work_of_known_total_shows_its_share_and_ends_full(prefect_server):
    def train():
        with StageProgress("pretrain small", get_run_logger()) as progress:
            progress(1, 4, unit="steps", loss=3.21987)
            half_way = shown()
            progress(3, 4, unit="steps", loss=2.5)
        return half_way + shown()

    early, late = in_a_task(train)
    assert (early.type, early.data, late.data) == ("progress", 25.0, 100.0)
    assert early.id == late.id
    assert early.description.startswith("pretrain small: 1/4 steps · loss 3.22 · ")
    assert "left" in early.description


def test_work_that_fails_keeps_showing_how_far_it_came(prefect_server):
    page = []

    def train():
        try:
            with StageProgress("pretrain small", get_run_logger()) as progress:
                progress(1, 4, unit="steps")
                raise ConnectionError
        except ConnectionError:
            page.extend(shown())

    in_a_task(train)
    assert [artifact.data for artifact in page] == [25.0]


@pytest.mark.parametrize("total", [4, None])
def test_a_server_that_is_away_for_a_while_stops_no_work_and_is_told_again(prefect_server, caplog, total):
    def train():
        with StageProgress("pretrain small", get_run_logger()) as progress:
            progress(1, total, unit="steps")
            with server_away():
                progress(2, total, unit="steps")
                progress(2, total, unit="steps")
            progress(3, total, unit="steps")
            return shown()

    (page,) = in_a_task(train)
    assert "3/4 steps" in page.description if total else "3 steps" in page.data
    assert caplog.text.count("the work goes on") == 1


def test_a_server_that_is_away_when_the_work_is_done_fails_nothing(prefect_server, caplog):
    def train():
        progress = StageProgress("pretrain small", get_run_logger())
        with ExitStack() as around:
            outage = around.enter_context(ExitStack())
            around.enter_context(progress)
            progress(1, 4, unit="steps")
            outage.enter_context(server_away())
        return "done"

    assert in_a_task(train) == "done"
    assert "the work goes on" in caplog.text


def test_outside_of_a_run_progress_goes_to_the_log_alone(caplog):
    with caplog.at_level(logging.INFO), StageProgress("ingest", logging.getLogger("here")) as progress:
        progress(12_345, unit="documents", bytes=6.7e9)
    assert [record.message for record in caplog.records if record.name == "here"] == [
        "12,345 documents · bytes 6,700,000,000"
    ]
