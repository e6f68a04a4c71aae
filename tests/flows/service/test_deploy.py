"""`textmill deploy` on a real server: what it makes, leaves alone and removes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.engine.devices import LIMIT
from flows.service import deploying
from flows.service.deploying import AUTOMATIONS, DeployOptions, deploy, ensure_server_objects
from flows.service.deployments import declared

PROJECT = Path(__file__).parents[3]
SITE = "start: [http://example.org]\ncontact: a@example.org\nschedule: {cron: '0 4 * * *', timezone: Europe/Berlin}\n"
FEW = {"small", "mine", "pretrain", "umb"}
PASSING = {"id", "created", "updated", "deployment_id", "created_by", "updated_by", "last_polled"}
VERSION = {"version", "version_id", "version_info"}  # `prefect deploy` takes the commit where git has a remote


@pytest.fixture
def client(prefect_server):
    with get_client(sync_client=True) as client:
        clear(client)
        yield client


def clear(client: SyncPrefectClient) -> None:
    for deployment in client.read_deployments():
        client.delete_deployment(deployment.id)


@pytest.fixture
def few(monkeypatch) -> None:
    """Deploy only what these tests look at: a tenth of a second each, many times."""
    monkeypatch.setattr(deploying, "declared", lambda project: [item for item in declared(project) if item.name in FEW])


@pytest.fixture
def project(few, tmp_path, monkeypatch, small_config) -> Path:
    """A project with a source, in the working directory."""
    (tmp_path / "configs").mkdir()
    small_config(tmp_path).rename(tmp_path / "configs" / "small.yaml")
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "mine.yaml").write_text(SITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def deployed(**options: Any) -> dict[str, str]:
    """What `textmill deploy` says, by the first word of its lines."""
    lines: list[str] = []
    deploy(DeployOptions(**options), lines.append)
    return {line.split()[0]: line.partition(" ")[2].strip() for line in lines}


def snapshot(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    """All that the server knows of its deployments, but for times and identifiers, and for what only `textmill deploy`
    can do: a form's descriptions show what the deployment's configuration says."""

    def without(keys: set[str], value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(keys, below) for key, below in value.items() if key not in keys}
        return [without(keys, item) for item in value] if isinstance(value, list) else value

    found = {}
    for item in client.read_deployments():
        told = without(PASSING | VERSION, item.model_dump(mode="json"))
        form = without({"description"}, told["parameter_openapi_schema"])
        told["parameter_openapi_schema"] = {"required": [], "definitions": {}, **form}
        told["global_concurrency_limit"] = (told["global_concurrency_limit"] or {}).get("limit")
        found[f"{client.read_flow(item.flow_id).name}/{item.name}"] = told
    return found


def test_a_source_of_the_project_comes_alive_and_goes_with_its_file(client, project):
    said = deployed()
    assert "scrape/mine" in said["created"]
    [schedule] = client.read_deployment_by_name("scrape/mine").schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 4 * * *", "Europe/Berlin")
    assert schedule.active
    (project / "sources" / "mine.yaml").unlink()
    asked: list[list[str]] = []
    said = deployed(remove=lambda titles: bool(asked.append(titles)))
    assert asked == [["scrape/mine"]]
    assert said["left"].startswith("alone scrape/mine: not declared any more")
    assert client.read_deployment_by_name("scrape/mine")
    assert deployed(remove=lambda titles: True)["removed"] == "scrape/mine"
    assert "scrape/mine" not in snapshot(client)


def test_what_was_changed_in_the_ui_and_no_file_says_stays(client, project):
    deployed()
    before = client.read_deployment_by_name("scrape/mine")
    [schedule] = before.schedules
    client.request("PATCH", f"/deployments/{before.id}/schedules/{schedule.id}", json={"active": False})  # as the UI
    assert "scrape/mine" in deployed()["unchanged"]
    (project / "sources" / "mine.yaml").write_text(SITE.replace("0 4", "0 5"))
    assert deployed()["updated"] == "scrape/mine"
    [schedule] = client.read_deployment_by_name("scrape/mine").schedules
    assert (schedule.schedule.cron, schedule.active) == ("0 5 * * *", False)


def test_a_schedule_is_on_as_long_as_the_files_ask_for_it(client, project):
    """The source umb comes with Textmill: a crawl of it is due once a configuration names it."""

    def active() -> bool:
        [schedule] = client.read_deployment_by_name("scrape/umb").schedules
        return schedule.active

    config = project / "configs" / "small.yaml"
    unasked = config.read_text()
    deployed()
    assert not active()
    config.write_text(unasked.replace("python-docs", "umb"))
    assert "scrape/umb" in deployed()["updated"]
    assert active()
    config.write_text(unasked)
    assert "scrape/umb" in deployed()["updated"]
    assert not active()


def test_a_schedule_that_a_person_added_in_the_ui_stays(client, project):
    deployed()
    weekly = {"cron": "0 6 * * 0", "timezone": "Europe/Berlin"}
    added = {"schedule": weekly, "active": True, "parameters": {"force": False}}
    for title in ("scrape/mine", "pretrain/pretrain"):  # with a schedule of a file, and without
        at = f"/deployments/{client.read_deployment_by_name(title).id}/schedules"
        client.request("POST", at, json=[added])  # as the UI
    assert {"scrape/mine", "pretrain/pretrain"} <= set(deployed()["unchanged"].split(", "))
    (project / "sources" / "mine.yaml").write_text(SITE.replace("0 4", "0 5"))
    (project / "configs" / "small.yaml").rename(project / "configs" / "mine.yaml")
    assert {"scrape/mine", "pretrain/pretrain"} <= set(deployed()["updated"].split(", "))
    declared_one, persons = sorted(
        client.read_deployment_by_name("scrape/mine").schedules, key=lambda one: not one.slug
    )
    assert declared_one.schedule.cron == "0 5 * * *"
    [alone] = client.read_deployment_by_name("pretrain/pretrain").schedules
    for schedule in (persons, alone):
        told = schedule.model_dump(
            mode="json", include={"schedule": {"cron", "timezone"}, "active": True, "parameters": True}
        )
        assert told == added


def test_deployments_of_others_are_never_removed(client, project):
    deployed()
    mine = client.read_deployment_by_name("scrape/mine")
    shared = {"entrypoint": mine.entrypoint, "work_pool_name": mine.work_pool_name}
    elsewhere = [{"prefect.deployments.steps.set_working_directory": {"directory": "/elsewhere"}}]
    for name, changed in {
        "by-hand": {"pull_steps": mine.pull_steps},
        "of-another-project": {"tags": mine.tags, "pull_steps": elsewhere},
        "of-another-program": {"tags": mine.tags, "pull_steps": mine.pull_steps, "entrypoint": "flow.py:flow"},
    }.items():
        client.create_deployment(mine.flow_id, name, **(shared | changed))
    assert "removed" not in deployed(remove=lambda titles: True)
    assert {"scrape/by-hand", "scrape/of-another-project", "scrape/of-another-program"} <= snapshot(client).keys()


def test_automations_follow_the_triggers_of_their_deployment(client, project):
    def write(**schedules: str | None) -> None:
        """Sources of the pipeline, with a schedule or without."""
        for name, schedule in schedules.items():
            lines = SITE.splitlines()[:2] + ([f"schedule: {{cron: '{schedule}'}}"] if schedule else [])
            (project / "sources" / f"{name}.yaml").write_text("\n".join(lines))

    def made() -> list[tuple[bool, set[str]]]:
        found = client.read_automations_by_name("textmill-small-sources-changed")
        return [(one.enabled, set(one.trigger.match["textmill.label"])) for one in found]

    config = project / "configs" / "small.yaml"
    config.write_text(config.read_text().replace("- python-docs", "- mine\n  - other"))
    write(mine="0 4 * * *", other=None)
    deployed()
    assert made() == [(False, {"mine"})]
    [automation] = client.read_automations_by_name("textmill-small-sources-changed")
    client.request("PATCH", f"/automations/{automation.id}", json={"enabled": True})  # as the UI
    write(other="0 5 * * *")
    assert "pipeline/small" in deployed()["unchanged"]
    assert made() == [(True, {"mine", "other"})]
    write(mine=None, other=None)
    deployed()
    assert made() == []
    write(mine="0 4 * * *")
    deployed()
    assert made() == [(False, {"mine"})]
    config.rename(project / "configs" / "mine.yaml")
    assert "pipeline/small" in deployed(remove=lambda titles: True)["removed"]
    assert made() == []


def test_the_limit_of_trainings_stays_until_another_is_asked_for(client, project):
    def limit() -> int:
        return client.read_global_concurrency_limit_by_name(LIMIT).limit

    ensure_server_objects(client, 3)
    assert limit() == 3
    ensure_server_objects(client)
    assert limit() == 3
    ensure_server_objects(client, 1)
    assert limit() == 1


def test_job_variables_and_folder_are_those_asked_for(client, project):
    deployed(folder="{{ $TEXTMILL_PROJECT }}", gpu_variables={"env": {"A": "1"}})
    pretrain = client.read_deployment_by_name("pretrain/pretrain")
    assert pretrain.job_variables == {"env": {"A": "1"}}
    assert client.read_deployment_by_name("scrape/mine").job_variables == {}
    [step] = pretrain.pull_steps
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $TEXTMILL_PROJECT }}"}}


def test_automations_of_the_project_take_the_place_of_the_shipped(client, project, monkeypatch):
    AUTOMATIONS.write_text(
        "automations:\n- name: of-this-test\n  trigger: {type: event, expect: [x], posture: Reactive}\n  actions: []\n"
    )
    ensure_server_objects(client)
    (made,) = client.read_automations_by_name("of-this-test")
    client.delete_automation(made.id)


@pytest.mark.slow
def test_prefect_deploy_makes_the_same(client, prefect_server, monkeypatch):
    """Of `prefect.yaml`, all that the server knows of a deployment."""
    monkeypatch.chdir(PROJECT)
    deployed()
    ours = snapshot(client)
    clear(client)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = snapshot(client)
    assert theirs.keys() == ours.keys()
    for title, deployment in theirs.items():
        assert deployment == ours[title]


@pytest.fixture
def grown(service):
    """The service's project, with a source of its own, and a pipeline that has what the other lacks."""
    folder = service.folder
    docs = yaml.safe_load((PROJECT / "scraping/sources/python-docs.yaml").read_text())
    mine = {**docs, "limits": {"pages": 8}, "schedule": {"cron": "0 4 1 1 *"}}
    small = yaml.safe_load((folder / "configs/demo.yaml").read_text())
    texts = {**small, "name": "texts", "ingest": {"path": "../texts.txt"}, "pairs": {}}
    (folder / "sources").mkdir()
    files = {"sources/mine.yaml": yaml.safe_dump(mine), "configs/texts.yaml": yaml.safe_dump(texts)}
    files["texts.txt"] = "<|endoftext|>".join(f"Text {n} says that {n} and {n} are {2 * n}. " * 30 for n in range(40))
    for name, text in files.items():
        (folder / name).write_text(text)
    done = service.command("deploy")
    assert "ingest/ingest" in done.stdout, done.stderr
    yield service
    for name in files:
        (folder / name).unlink()
    done = service.command("deploy", "--prune")
    assert "removed" in done.stdout, done.stderr


WITHOUT_CONTACT = {"scrape/umb", "scrape/umb-courses"}  # nobody has said who crawls


@pytest.mark.slow
def test_every_deployment_but_the_experiments_runs(grown):
    """The pipelines first: what they build is what a stage alone takes as given. Experiments, which train many models,
    have tests of their own (test_experiment.py)."""
    with grown.client() as client:
        titles = [title for title in snapshot(client) if not title.startswith("experiment/")]
        [schedule] = client.read_deployment_by_name("scrape/mine").schedules
        assert schedule.active and schedule.schedule.cron == "0 4 1 1 *"
    assert {"pipeline/demo", "pipeline/texts", "scrape/mine", "pairs/pairs", "verify/verify"} <= set(titles)
    pipelines = sorted(title for title in titles if title.startswith("pipeline/"))
    alone = sorted(set(titles) - set(pipelines))
    for together in (pipelines[:1], pipelines[1:], *(alone[place : place + 3] for place in range(0, len(alone), 3))):
        runs = {title: grown.start(title) for title in together}
        for title, run in runs.items():
            if title in WITHOUT_CONTACT:
                assert "set TEXTMILL_CONTACT to" in grown.wait(run, "Failed").message
            else:
                grown.wait(run, "Completed")
