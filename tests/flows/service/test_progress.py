"""What a long stage shows in its log and on its live page, on a real server."""

from __future__ import annotations

import base64
import logging
import re
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterTaskRunId,
)
from prefect.client.schemas.objects import Artifact
from prefect.context import TaskRunContext
from prefect.events import emit_event
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_METRICS_ENABLED,
    PREFECT_CLIENT_METRICS_PORT,
    temporary_settings,
)
from prefect.utilities.services import stop_client_metrics_server

from flows.service.watching.live import BestEffort, LivePage, Watch
from flows.service.watching.metrics import Gauges
from flows.service.watching.progress import StageProgress, curve_svg
from textmill.progress import Clock, Interrupted


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


def in_a_task(work, title="pretrain small"):
    """Do this work inside a task of a flow, with a progress and its page; what it returns."""

    def with_page():
        logger = get_run_logger()
        progress = StageProgress(title, logger)
        return work(progress, LivePage("pretraining-of-small", title, progress.page, logger))

    @flow
    def one_stage():
        return task(with_page, persist_result=False)()

    return one_stage()


def test_a_page_is_one_artifact_that_follows_the_work_and_ends_with_what_came_out(prefect_server, caplog):
    def train(progress, page):
        seen = []
        for step in (1, 2):
            progress(step, 4, unit="steps", loss=4 / step, tokens_per_second=1234.5, errors={})
            page.refresh()
            seen.append(shown())
        page.close("It is done.", "validation loss 2")
        page.refresh()  # one that was under way when the work ended
        return [*seen, shown()]

    first, second, last = in_a_task(train)
    assert [len(page) for page in (first, second, last)] == [1, 1, 1]
    assert first[0].id == second[0].id == last[0].id
    assert "1/4 steps · loss 4 · tokens per second 1,234" in first[0].data
    assert "| tokens per second | 1,234 |" in second[0].data
    assert "50 %" in second[0].data
    assert "errors" not in second[0].data
    assert "![Loss so far](data:image/svg+xml;base64," in second[0].data
    assert (last[0].data, last[0].description) == ("It is done.", "validation loss 2")
    with get_client(sync_client=True) as client:  # what the page of all artifacts shows
        wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=["pretraining-of-small"]))
        [latest] = client.read_latest_artifacts(artifact_filter=wanted)
    assert (latest.latest_id, latest.data) == (last[0].id, "It is done.")
    [told] = [line for line in caplog.messages if line.startswith("Watch: ")]
    assert told.endswith(f"/artifacts/artifact/{last[0].id}")


def test_refreshing_a_page_does_not_let_the_database_grow(prefect_server):
    database = Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition(":///")[2])
    title = f"pretrain {uuid4().hex}"  # nothing else that is written into the database holds this

    def rows() -> dict[str, int]:
        """How many rows of each table hold the page, or a part of it."""
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            found = {}
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                columns = [f'"{name}"' for _, name, *_ in connection.execute(f'PRAGMA table_info("{table}")')]
                text = " || ' ' || ".join(f"coalesce({column}, '')" for column in columns)
                query = f'SELECT count(*) FROM "{table}" WHERE instr({text}, ?)'
                found[table] = connection.execute(query, (title,)).fetchone()[0]
            return {table: count for table, count in found.items() if count}

    def train(progress, page):
        for step in range(1, 301):
            progress(step, 300, unit="steps", loss=5 - step / 100)
            page.refresh()

    in_a_task(train, title)
    emit_event("the-end", {"prefect.resource.id": title})  # the server writes events later, in their order
    deadline = time.monotonic() + 120
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        while not connection.execute("SELECT count(*) FROM events WHERE resource_id = ?", (title,)).fetchone()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    held = rows()
    assert (held["artifact"], held["artifact_collection"]) == (1, 1)
    assert sum(held.values()) < 20  # of 300 refreshes


def test_the_watch_shows_work_soon_and_goes_on_while_the_work_says_nothing(prefect_server):
    def train(progress, page):
        with Watch() as watch, watch.showing(page, progress):
            began = time.monotonic()
            while not (first := shown()):
                assert time.monotonic() < began + 60
                time.sleep(0.1)
            progress(3, 9, unit="steps")
            while (second := shown())[0].data == first[0].data:
                assert time.monotonic() < began + 120
                time.sleep(0.1)
        return first, second

    first, second = in_a_task(train)
    assert "working" in first[0].data
    assert "3/9 steps" in second[0].data


def test_a_page_that_cannot_be_drawn_is_told_once_and_the_other_pages_go_on(prefect_server, caplog, monkeypatch):
    monkeypatch.setattr("flows.service.watching.live.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("flows.service.watching.live.PAGE_SECONDS", 0.0)
    tries = []

    def broken() -> str:
        tries.append(1)
        raise KeyError("a row that is not there")

    def train(progress, page):
        bad = LivePage("broken", "the broken one", broken, page.logger)
        with Watch() as watch, watch.showing(bad), watch.showing(page):
            deadline = time.monotonic() + 240
            while len(tries) < 3 or not shown():
                assert time.monotonic() < deadline
                time.sleep(0.1)
        return shown()

    [page] = in_a_task(train)
    assert page.key == "pretraining-of-small"
    assert caplog.text.count("The page of the broken one cannot be drawn") == 1


def test_a_curve_that_begins_while_the_page_is_drawn_does_no_harm():
    progress = StageProgress("pretrain small", logging.getLogger("here"))
    for step in (1, 2):
        progress(step, 4, unit="steps", loss=4 / step)

    class Meanwhile(list):
        """A curve in whose midst the work tells its first validation loss."""

        def __iter__(self):
            progress(3, 4, unit="steps", loss=1.5, validation_loss=2.0)
            return super().__iter__()

    progress.curves["loss"] = Meanwhile(progress.curves["loss"])
    assert "![Loss so far]" in progress.page()


def test_work_that_is_over_in_a_moment_leaves_no_live_page(prefect_server):
    def train(progress, page):
        with Watch() as watch, watch.showing(page, progress):
            pass
        page.close_if_shown("stopped", "pretrain small")
        return shown()

    assert in_a_task(train) == []


def test_work_that_fails_keeps_showing_how_far_it_came(prefect_server):
    def train(progress, page):
        progress(1, 4, unit="steps")
        page.refresh()
        page.close_if_shown(progress.ended_page(ConnectionError("no <b>route</b>\nat all")), "pretrain small")
        return shown()

    [page] = in_a_task(train)
    assert r"stopped: no \<b\>route\</b\>" in page.data
    assert "1/4 steps" in page.data


def test_a_server_that_is_away_for_a_while_stops_no_work_and_is_told_again(prefect_server, caplog):
    def train(progress, page):
        progress(1, 4, unit="steps")
        page.refresh()
        with server_away():
            for _ in range(2):
                progress(2, 4, unit="steps")
                page.refresh()
        progress(3, 4, unit="steps")
        page.refresh()
        seen = shown()
        with server_away():
            page.close("done", "done")
        return seen

    [page] = in_a_task(train)
    assert "3/4 steps" in page.data
    assert caplog.text.count("the work goes on") == 2


def test_the_log_has_a_line_now_and_then(caplog, monkeypatch):
    monkeypatch.setattr("flows.service.watching.progress.LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        progress = StageProgress("ingest", logging.getLogger("here"))
        progress(12_345, unit="documents", bytes=6.7e9, errors={"status 404": 3, "status 500": 12}, hosts=["a", "b"])
    assert caplog.messages == [
        "12,345 documents · bytes 6,700,000,000 · errors status 500 × 12, status 404 × 3 · hosts a, b"
    ]


def test_rates_count_from_the_first_report_and_not_while_waiting(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("textmill.progress.time.monotonic", lambda: now[0])
    progress = StageProgress("pretrain small", logging.getLogger("here"))
    with progress.clock.waiting("the limit `training`"):
        now[0] += 3600
        assert progress.now == "waiting for the limit `training` (1:00:00)"
        assert progress.clock.seconds == 0
    progress(5000, 6000, unit="steps")  # an interrupted build goes on there
    assert progress.standing.left == ""
    now[0] += 10
    progress(5100, 6000, unit="steps")
    assert (progress.standing.speed, progress.standing.left) == ("10 steps/s", "1:30 left")
    assert progress.clock.seconds == 10


def test_an_interruption_ends_work_in_any_thread_at_its_next_sleep_or_report():
    interrupted = threading.Event()
    progress = StageProgress("scrape site", logging.getLogger("here"), Clock(interrupted))
    ended = []

    def wait():
        try:
            progress.clock.sleep(60)
        except Interrupted:
            ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    interrupted.set()
    thread.join(50)
    assert ended == [True]
    with pytest.raises(Interrupted):
        progress(1, unit="pages")


def test_a_curve_of_any_length_stays_small_and_keeps_its_ends():
    progress = StageProgress("pretrain small", logging.getLogger("here"))
    for step in range(10_000):
        progress(step, 10_000, unit="steps", loss=10 - step / 1000)
    assert (progress.curves["loss"][0][0], progress.curves["loss"][-1][0]) == (0, 9999)
    svg = curve_svg(progress.curves)
    assert len(svg) < 6500
    assert "loss 0.001" in svg
    picture = re.search(r"base64,([A-Za-z0-9+/=]+)\)", progress.page())
    assert base64.b64decode(picture[1]).decode() == svg


def test_figures_are_gauges_where_prefects_metrics_are_on(prefect_server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def served() -> list[str]:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()

    def train(progress, page):
        with Gauges("pretrain", 'a "label"', "small") as gauges:
            watched = StageProgress("pretrain small", logging.getLogger("here"), figures=gauges)
            watched(3, 9, unit="steps", loss=2.5, hosts=["a"])
            during = served()
        return during, served()

    try:
        with temporary_settings({PREFECT_CLIENT_METRICS_ENABLED: True, PREFECT_CLIENT_METRICS_PORT: port}):
            during, after = in_a_task(train)
    finally:
        stop_client_metrics_server()
    labels = r'{label="a \"label\"",pipeline="small",stage="pretrain"}'
    assert {f"textmill_loss{labels} 2.5", f"textmill_done{labels} 3.0", f"textmill_total{labels} 9.0"} <= set(during)
    assert not [line for line in after if line.startswith("textmill_")]


def test_what_cannot_be_shown_does_not_fail_what_was_done(caplog):
    BestEffort(logging.getLogger("flows"))(lambda: {}["no such figure"])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "What was done cannot be shown (KeyError('no such figure')); the work goes on" in caplog.text
