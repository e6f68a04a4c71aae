"""What automations can react to, as stages send it."""

from __future__ import annotations

import functools
import http.server
import os
import threading
import time

import pytest
import yaml

from flows.service.flows import pipeline, stage_flow


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder, served as a site of which it is a source: the folder and the source's file."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = tmp_path / "changing.yaml"
    source.write_text(
        yaml.safe_dump({
            "start": [f"http://127.0.0.1:{server.server_port}/"], "contact": "me@example.org",
            "private_addresses": True, "delay": 0, "sitemaps": False,
        })
    )  # fmt: skip
    yield folder, source
    server.shutdown()
    server.server_close()


@pytest.fixture
def sent(monkeypatch) -> list[tuple[str, str, dict]]:
    """Events in the order of sending: name, label, payload."""
    events = []
    monkeypatch.setattr(
        "flows.service.events.emit_event",
        lambda event, resource, payload: events.append((event, resource["textmill.label"], payload)),
    )
    return events


def test_a_crawl_tells_when_its_site_changed(prefect_server, write_config, site, sent):
    folder, source = site
    config = write_config(scrape={"sources": [str(source)], "max_pages": None})

    def crawl() -> dict | None:
        sent.clear()
        stage_flow("scrape")(config=str(config), force=True, return_state=True).result()
        assert sent[0][0] == "textmill.stage.sealed"
        return {name: payload for name, _, payload in sent}.get("textmill.source.changed")

    (folder / "index.html").write_text("<a href='a.html'>a</a><p>Something to read")
    (folder / "a.html").write_text("<p>The first version")
    assert crawl() is None  # everything is new to the first crawl
    assert crawl() is None
    (folder / "a.html").write_text("<p>The second version, which is longer")
    later = time.time() + 2  # a Last-Modified has whole seconds, and a crawl may take less than one
    os.utime(folder / "a.html", (later, later))
    changes = crawl()
    assert changes.pop("fingerprint")
    assert changes == {"changed": 1}


@pytest.mark.slow
def test_a_model_that_came_out_worse_than_the_last_is_told(prefect_server, config, sent):
    pipeline(config=str(config), return_state=True).result()
    assert [name for name, _, _ in sent] == ["textmill.stage.sealed"] * 7
    sent.clear()
    stage_flow("pretrain")(config=str(config), steps=1, return_state=True).result()
    (_, worse) = sent
    assert worse[0] == "textmill.validation-loss.worse"
    assert worse[2]["validation_loss"] > worse[2]["last_validation_loss"]
    sent.clear()
    stage_flow("pretrain")(config=str(config), steps=13, return_state=True).result()
    assert [name for name, _, _ in sent] == ["textmill.stage.sealed"]


@pytest.mark.slow
def test_a_schedule_that_makes_a_model_worse_is_paused_where_that_is_switched_on(service):
    service.wait(service.start("pipeline/demo"), "Completed")
    with service.client() as client:
        (automation,) = client.read_automations_by_name("textmill-worse-model")
        assert not automation.enabled
        client.resume_automation(automation.id)

        def is_paused() -> bool:
            return client.read_deployment_by_name("pretrain/pretrain").paused

        def train(steps: int, tags: list[str]) -> None:
            deployment = client.read_deployment_by_name("pretrain/pretrain").id
            parameters = {"overrides": {"pretrain": {"steps": steps}}}
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters, tags=tags).id
            service.wait(run, "Completed")

        train(4, [])  # worse than the pipeline's, but started by hand
        assert not is_paused()
        train(1, ["auto-scheduled"])  # Prefect's own tag
        deadline = time.monotonic() + 120
        while not is_paused():
            assert time.monotonic() < deadline, "the automation did not act"
            time.sleep(0.2)
        client.resume_deployment(client.read_deployment_by_name("pretrain/pretrain").id)
        client.pause_automation(automation.id)
