"""Sources of one run are crawled at the same time: real sites on loopback that remember when they were asked."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, TaskRunFilter, TaskRunFilterId

from flows.service.flows import stage_flow
from flows.store.local import Store
from tests.flows.conftest import PROJECT, TEXTMILL
from textmill.errors import UserError

PAGES = 8


def declare(folder: Path, name: str, site, delay: float) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({
            "start": [site.address], "contact": "me@example.org", "private_addresses": True, "delay": delay,
            "sitemaps": False, "backoff": 0.05,
        })
    )  # fmt: skip
    return str(path)


def crawl(config: Path):
    return stage_flow("scrape")(config=str(config), return_state=True)


def test_two_sites_are_crawled_at_the_same_time_each_politely(prefect_server, write_config, start_site, tmp_path):
    first, second = start_site(PAGES), start_site(PAGES)
    sources = [declare(tmp_path, name, site, 0.3) for name, site in (("one", first), ("two", second))]
    outcomes = crawl(write_config(scrape={"sources": sources})).result()
    assert [outcome.artifact.manifest.label for outcome in outcomes] == ["one", "two"]
    assert max(first.span[0], second.span[0]) < min(first.span[1], second.span[1])
    for site in (first, second):
        times = [moment for moment, _ in site.asked]
        assert min(b - a for a, b in itertools.pairwise(times)) > 0.25

    with get_client(sync_client=True) as client:  # each task's log is its own
        run = client.read_flow_runs(limit=1, sort="START_TIME_DESC")[0]
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
        building = {line.message.split()[2]: line.task_run_id for line in lines if line.message.startswith("Building")}
        ids = list(building.values())
        tasks = client.read_task_runs(task_run_filter=TaskRunFilter(id=TaskRunFilterId(any_=ids)))
    assert {task.name for task in tasks} == {"scrape one", "scrape two"}
    assert len(set(ids)) == 2


STARTED_BY_PREFECT = """
import prefect
import sys
from flows.service.flows import stage_flow
import logging, threading
stage_flow("scrape")(config=sys.argv[1])
threading.Thread(target=logging.getLogger("scraping").warning, args=["from outside of a run"]).start()
"""


@pytest.mark.parametrize("started_by", [pytest.param("textmill", marks=pytest.mark.slow), "prefect"])
def test_what_the_threads_of_a_crawl_say_is_in_the_log_of_their_task_and_warns_of_nothing(
    prefect_server, write_config, start_site, tmp_path, started_by
):
    names = {"one": "gone-one.invalid", "two": "gone-two.invalid"}
    sources = []
    for name, gone in names.items():
        site = start_site(2)
        path = tmp_path / f"{name}.yaml"
        document = yaml.safe_load(Path(declare(tmp_path, name, site, 0.01)).read_text())
        path.write_text(
            yaml.safe_dump({**document, "start": [site.address, f"http://{gone}/"], "hosts": [site.host, gone]})
        )
        sources.append(str(path))
    config = str(write_config(scrape={"sources": sources}))
    command = {
        "textmill": [TEXTMILL, "run", config, "--only", "scrape"],
        "prefect": [sys.executable, "-c", STARTED_BY_PREFECT, config],  # as its worker does: Prefect is imported first
    }[started_by]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_LOGGING")}
    done = subprocess.run(
        command, env={**environment, "PREFECT_API_URL": prefect_server}, capture_output=True, text=True, check=False,
        timeout=300, cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out, err = done.stdout, done.stderr
    assert err.count(f"giving up http://{names['one']}") == 1, "on the terminal once"
    for noise in ("flow run id", "run context", "Traceback", "UserWarning", "MissingContext"):
        assert noise not in out + err

    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(limit=1, sort="START_TIME_DESC")[0]
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
        tasks = {
            task.id: task.name
            for task in client.read_task_runs(
                task_run_filter=TaskRunFilter(
                    id=TaskRunFilterId(any_=[line.task_run_id for line in lines if line.task_run_id])
                )
            )
        }
    for name, gone in names.items():
        told = [line for line in lines if f"giving up http://{gone}" in line.message]
        assert [tasks[line.task_run_id] for line in told] == [f"scrape {name}"], [line.message for line in lines]
        waits = [line for line in lines if gone in line.message and "asking again" in line.message]
        assert len(waits) == 2 and {line.level for line in waits} == {20}


def test_only_so_many_at_once(prefect_server, write_config, start_site, tmp_path):
    sites = [start_site(PAGES), start_site(PAGES)]
    sources = [declare(tmp_path, f"s{number}", site, 0.05) for number, site in enumerate(sites)]
    crawl(write_config(scrape={"sources": sources, "at_once": 1})).result()
    assert sites[0].span[1] < sites[1].span[0]


@pytest.mark.slow
def test_sources_of_one_host_take_turns(prefect_server, write_config, start_site, tmp_path):
    site = start_site(PAGES)
    sources = [declare(tmp_path, name, site, 0.2) for name in ("one", "two")]
    crawl(write_config(scrape={"sources": sources})).result()
    times = [moment for moment, _ in site.asked]
    assert len(site.pages) == 2 * PAGES
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.15


def test_a_site_that_fails_costs_the_others_nothing_and_all_failures_are_named(
    prefect_server, write_config, start_site, tmp_path
):
    good, bad, worse = start_site(PAGES), start_site(PAGES), start_site(PAGES)
    bad.broken = worse.broken = True
    sources = [declare(tmp_path, name, site, 0.1) for name, site in (("bad", bad), ("good", good), ("worse", worse))]
    state = crawl(write_config(scrape={"sources": sources}))
    with pytest.raises(UserError, match=r"2 stages failed: source bad: .*; source worse: "):
        state.result()
    artifacts = list(Store(tmp_path / "store").artifacts("scrape"))
    assert [(artifact.manifest.label, artifact.stats["pages"]) for artifact in artifacts] == [("good", PAGES)]
    good.asked.clear()
    bad.broken = worse.broken = False
    crawl(write_config(scrape={"sources": sources})).result()
    assert good.asked == []  # reused


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_stops_all_its_crawls_and_the_next_goes_on(
    textmill, write_config, start_site, tmp_path, number
):
    sites = [start_site(PAGES), start_site(PAGES)]
    sources = [declare(tmp_path, f"s{n}", site, 1.0) for n, site in enumerate(sites)]
    config = write_config(scrape={"sources": sources})
    process = textmill("run", config, "--only", "scrape")
    deadline = time.monotonic() + 120
    while not all(len(site.asked) > 3 for site in sites):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    stopped = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=240)
    assert time.monotonic() - stopped < 25
    assert process.returncode != 0, err
    again = textmill("run", config, "--only", "scrape")
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    for site in sites:
        assert len(set(site.pages)) == PAGES
        assert len(site.pages) <= PAGES + 1  # the request under way when it was stopped
