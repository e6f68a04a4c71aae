"""`prefect.yaml` against what Prefect takes and against what is declared elsewhere: it ignores most keys it does not
know, so that a slip of the pen would go unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, RawScheduleConfig, WorkPoolConfig
from prefect.cli.deploy._triggers import _initialize_deployment_triggers
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from experiments import NAMES as NAMES_OF_EXPERIMENTS
from flows.pipeline.chain import STAGES, StageName
from flows.pipeline.config import load_config
from flows.service.deploying import POOL, SHIPPED_AUTOMATIONS
from flows.service.form import COMMON, run_form
from scraping.crawling.source import load_source, shipped_sources

PROJECT = Path(__file__).parents[3]
DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
NAMES = [f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}" for entry in DEPLOYMENTS]


def of(flow: str) -> dict[str, dict]:
    return {entry["name"]: entry for entry in DEPLOYMENTS if entry["entrypoint"] == f"flows.service.deployments.{flow}"}


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=NAMES)
def test_every_key_means_something_to_prefect(entry):
    assert entry.keys() <= DeploymentConfig.model_fields.keys()
    assert entry["work_pool"].keys() <= WorkPoolConfig.model_fields.keys()
    assert entry["work_pool"]["name"] == POOL
    assert entry["concurrency_limit"].keys() <= ConcurrencyLimitSpec.model_fields.keys()
    ConcurrencyLimitStrategy(entry["concurrency_limit"]["collision_strategy"])
    for schedule in entry.get("schedules", []):
        RawScheduleConfig(**schedule)
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    _initialize_deployment_triggers(entry["name"], entry.get("triggers", []))
    DeploymentConfig.model_validate(entry)


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=NAMES)
def test_the_parameters_fit_the_flow_and_its_configuration(entry, monkeypatch):
    monkeypatch.chdir(PROJECT)
    name = entry["entrypoint"].rpartition(".")[2]
    for schedule in [{}, *entry.get("schedules", [])]:
        given = {**entry["parameters"], **schedule.get("parameters", {})}
        schema = run_form(name, Path(given["config"]))
        assert given.keys() <= schema["properties"].keys()
        assert not validate(given, schema)
        settings = {key: value for key, value in given.items() if name in STAGES and key not in COMMON}
        load_config(Path(given["config"]), {**given.get("overrides", {}), **({name: settings} if settings else {})})


def test_there_is_a_deployment_for_every_stage_and_for_the_pipeline():
    for stage in get_args(StageName):
        assert stage in of(stage)
    assert of("pipeline")["demo"]["schedules"][0]["cron"].endswith("* * 1")  # weekly


def test_there_is_a_deployment_for_every_experiment():
    declared = of("experiment")
    assert declared.keys() == set(NAMES_OF_EXPERIMENTS)
    assert all(entry["parameters"]["name"] == name for name, entry in declared.items())


def test_training_runs_from_the_gpu_queue_and_crawls_from_the_cpu_queue():
    queue = {name: entry["work_pool"]["work_queue_name"] for name, entry in zip(NAMES, DEPLOYMENTS, strict=True)}
    assert {name for name, at in queue.items() if at == "gpu"} == {
        "pipeline/demo", "pipeline/chimera", "pretrain/pretrain", "finetune/finetune",
        *(f"experiment/{name}" for name in NAMES_OF_EXPERIMENTS),
    }  # fmt: skip
    assert set(queue.values()) == {"cpu", "gpu"}


def test_every_shipped_source_is_crawled_when_its_file_says():
    crawls = of("scrape")
    assert crawls.keys() == {*shipped_sources(), "scrape"}
    for name in shipped_sources():
        source, entry = load_source(name), crawls[name]
        assert entry["parameters"]["sources"] == [name]
        assert entry["description"] == source.description
        declared = [(source.schedule.cron, source.schedule.timezone)] if source.schedule else []
        schedules = entry.get("schedules", [])
        assert [(schedule["cron"], schedule["timezone"]) for schedule in schedules] == declared
        assert all(schedule["parameters"] == {"force": True} for schedule in schedules)


@pytest.mark.parametrize("name", [*STAGES, "pipeline", "experiment"])
def test_prefect_sees_the_same_form_in_a_flow_as_a_deployment_is_given(name):
    flow = load_flow_from_entrypoint(f"flows.service.deployments.{name}")
    assert parameter_schema(flow).model_dump() == run_form(name)
    assert all(field["description"] for field in flow.parameters.properties.values())
    assert flow.parameters.properties["config"]["default"] == "configs/demo.yaml"


def test_the_automations_are_ones_that_prefect_takes():
    for document in yaml.safe_load(SHIPPED_AUTOMATIONS.read_text())["automations"]:
        automation = AutomationCore.model_validate(document)
        assert document.keys() <= AutomationCore.model_fields.keys()
        assert document["trigger"].keys() <= type(automation.trigger).model_fields.keys()
