"""What may not happen twice at once over the machines of one server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

from flows.service.flows import stage_flow
from flows.service.limits import slots
from flows.stages.scrape import host_limits
from scraping.crawling.source import Source
from textmill.progress import Clock


@pytest.fixture
def site(start_site):
    """A site of thirteen pages: its address, and the user agents that asked for them, in order."""
    served = start_site(13)
    return served.address, served.agents


@pytest.mark.slow
def test_two_machines_of_one_server_crawl_a_host_one_after_the_other(prefect_server, small_config, site, tmp_path):
    address, asked = site
    crawls = []
    for name in ("first", "second"):
        machine = tmp_path / name  # with its own store, and its own folder of gates: all that a machine's crawls share
        (machine / "tmp").mkdir(parents=True)
        (machine / "site.yaml").write_text(
            yaml.safe_dump({
                "start": [address], "contact": f"{name}@example.org",
                "private_addresses": True, "delay": 0.25, "sitemaps": False,
            })
        )  # fmt: skip
        config = small_config(machine, scrape={"sources": [str(machine / "site.yaml")], "max_pages": None})
        crawls.append(
            subprocess.Popen(
                [Path(sys.executable).with_name("textmill"), "run", config, "--only", "scrape"],
                env={**os.environ, "PREFECT_API_URL": prefect_server, "TMPDIR": str(machine / "tmp")},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        time.sleep(0.2)
    told = [crawl.communicate(timeout=180)[1] for crawl in crawls]
    assert [crawl.returncode for crawl in crawls] == [0, 0], told
    assert len(asked) == 26  # the start page and twelve more, twice
    assert asked == sorted(asked, key=asked.index)  # no request of the other in between
    [limit] = host_limits(Source(name="s", start=[address], contact="me@example.org"))
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(limit).active_slots == 0


def test_a_site_that_textmill_serves_itself_needs_no_limit():
    served = {"name": "s", "start": ["http://python-docs.localhost/"], "contact": "me@example.org"}
    assert host_limits(Source(**served, serve="python-docs")) == []
    assert host_limits(Source(**served)) == ["crawl of python-docs.localhost"]


def test_waiting_for_a_limit_is_told_and_is_not_work(prefect_server, write_config, site, tmp_path, caplog):
    address, asked = site
    source = tmp_path / "site.yaml"
    declared = {"start": [address], "contact": "me@example.org", "private_addresses": True, "delay": 0}
    source.write_text(yaml.safe_dump({**declared, "sitemaps": False}))
    [limit] = host_limits(Source(**declared, name="site"))
    taken, enough = threading.Event(), threading.Event()

    @flow(flow_run_name="the other crawl")
    def other():
        @task
        def hold():
            with slots(Clock(), [limit], create=1):
                taken.set()
                enough.wait(120)

        hold()

    def crawl():
        return stage_flow("scrape")(config=str(write_config(scrape={"sources": [str(source)]})))

    def page() -> str:
        with get_client(sync_client=True) as client:
            wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=["crawl-of-site"]))
            return "".join(str(page.data) for page in client.read_latest_artifacts(artifact_filter=wanted))

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(other)
        assert taken.wait(240)
        crawler = pool.submit(crawl)
        deadline = time.monotonic() + 240
        while f"waiting for the limit \\`{limit}\\`, held by \\`the other crawl\\`" not in page():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        waited_since = time.monotonic()
        assert asked == []
        time.sleep(4)
        enough.set()
        [outcome] = crawler.result(120)
        waited = time.monotonic() - waited_since
        holder.result(60)
    assert len(asked) == 13
    assert outcome.artifact.manifest.seconds < waited - 3
    assert f"Waiting for the limit `{limit}`, held by `the other crawl`" in caplog.messages
