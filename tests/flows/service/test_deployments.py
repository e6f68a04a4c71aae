"""`prefect.yaml` against what Prefect takes and against what is declared elsewhere: it ignores most keys it does not
know, so that a slip of the pen would go unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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

from experiments.catalog import NAMES as NAMES_OF_EXPERIMENTS
from flows.pipeline.chain import STAGES
from flows.pipeline.config import load_config
from flows.pipeline.project import Project
from flows.service.deploying import SHIPPED_AUTOMATIONS, _form
from flows.service.deployments import POOL, Deployment, declared
from flows.service.flows import stage_flow
from flows.service.form import COMMON, run_form
from scraping.crawling.source import load_source, shipped_sources
from textmill.errors import UserError

PROJECT = Path(__file__).parents[3]
DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
NAMES = [f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}" for entry in DEPLOYMENTS]


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
    if name == "verify":
        assert entry["parameters"] == {"store": load_config(Path("configs/demo.yaml")).store}
        return
    for schedule in [{}, *entry.get("schedules", [])]:
        given = {**entry["parameters"], **schedule.get("parameters", {})}
        schema = run_form(name, Path(given["config"]))
        assert given.keys() <= schema["properties"].keys()
        assert not validate(given, schema)
        settings = {key: value for key, value in given.items() if name in STAGES and key not in COMMON}
        load_config(Path(given["config"]), {**given.get("overrides", {}), **({name: settings} if settings else {})})


def test_prefect_yaml_says_what_is_declared():
    """So `prefect deploy --all` makes what `textmill deploy` makes; tests/flows/service/test_deploy.py compares both on
    a server."""
    wanted = {deployment.title: deployment.entry() for deployment in declared(Project.open(PROJECT))}
    assert dict(zip(NAMES, DEPLOYMENTS, strict=True)) == wanted


def test_there_is_a_deployment_for_every_stage_that_a_configuration_has_and_for_every_pipeline_and_experiment():
    titles = {deployment.title for deployment in declared(Project.open(PROJECT))}
    in_none = {f"{stage}/{stage}" for stage in ("import_checkpoint", "pairs", "text_pairs", "questions", "answering")}
    assert {f"{stage}/{stage}" for stage in STAGES} - in_none <= titles
    assert not in_none & titles
    assert {f"pipeline/{path.stem}" for path in (PROJECT / "configs").glob("*.yaml")} <= titles
    assert {f"experiment/{name}" for name in NAMES_OF_EXPERIMENTS} <= titles


def test_training_runs_from_the_gpu_queue_and_crawls_from_the_cpu_queue():
    queue = {deployment.title: deployment.queue for deployment in declared(Project.open(PROJECT))}
    assert {name for name, at in queue.items() if at == "gpu"} == {
        "pipeline/demo", "pipeline/chimera", "pretrain/pretrain", "finetune/finetune",
        *(f"experiment/{name}" for name in NAMES_OF_EXPERIMENTS),
    }  # fmt: skip
    assert set(queue.values()) == {"cpu", "gpu"}


def test_every_shipped_source_is_crawled_when_its_file_says_for_the_configuration_that_names_it():
    crawls = {item.name: item for item in declared(Project.open(PROJECT)) if "scrape" in item.tags}
    assert crawls.keys() == {*shipped_sources(), "scrape"}
    for name in shipped_sources():
        source, crawl = load_source(name), crawls[name]
        config = "configs/demo.yaml" if name == "python-docs" else "configs/chimera.yaml"
        assert crawl.parameters == {"config": config, "sources": [name], "force": True}
        assert (crawl.description, crawl.schedule) == (source.description, source.schedule)


SITE = "start: [http://example.org]\ncontact: a@example.org\nschedule: {cron: '0 4 * * *', timezone: Europe/Berlin}\n"


@pytest.fixture
def project(tmp_path) -> Callable[..., list[Deployment]]:
    """What a project of these files declares."""

    def write(**files: str) -> list[Deployment]:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return declared(Project.open(tmp_path))

    return write


def test_every_site_has_its_form_although_a_mixture_names_only_those_of_the_file(project, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    deployments = project(
        configs__a="scrape: {sources: [mine, python-docs]}\ningest: {path: a.txt, name: umb}\n"
        "pretrain: {mixture: {mine: {weight: 1}, python-docs: {weight: 2}, umb: {weight: 3}}}\n",
        sources__mine=SITE,
    )
    forms = {item.title: _form(item, stage_flow("scrape")) for item in deployments if item.flow == "scrape"}
    assert forms.keys() >= {"scrape/mine", "scrape/python-docs", "scrape/umb", "scrape/scrape"}
    assert str(tmp_path / "sources" / "mine.yaml") in forms["scrape/mine"]["properties"]["sources"]["description"]


def test_a_project_s_own_sources_are_crawled_wherever_they_are_and_shipped_ones_wait_to_be_asked_for(project, tmp_path):
    crawls = {
        item.name: item
        for item in project(
            configs__a="scrape: {sources: [mine, ../elsewhere/other.yaml, umb]}\n",
            configs__b="pairs: {}\nscrape: {sources: [python-docs]}\n",
            sources__mine=SITE, sources__unused=SITE, elsewhere__other=SITE,
        )
        if item.flow == "scrape"
    }  # fmt: skip
    del crawls["scrape"]  # all sources of the main configuration
    entries = {name: crawl.parameters["sources"] for name, crawl in crawls.items()}
    assert entries == {
        "mine": ["sources/mine.yaml"], "unused": ["sources/unused.yaml"], "other": ["elsewhere/other.yaml"],
        "umb": ["umb"], "umb-courses": ["umb-courses"], "python-docs": ["python-docs"],
    }  # fmt: skip
    assert crawls["python-docs"].parameters["config"] == "configs/b.yaml"
    assert all(crawls[name].schedule.active for name in ("mine", "unused", "other", "umb"))
    assert not crawls["umb-courses"].schedule.active  # nobody here asked for it


def test_a_stage_has_a_deployment_where_a_configuration_has_the_stage(project):
    found = {item.title: item for item in project(configs__demo="finetune: null\n", configs__a="pairs: {}\n")}
    assert found["pairs/pairs"].parameters == {"config": "configs/a.yaml"}
    assert found["finetune/finetune"].parameters == {"config": "configs/a.yaml"}
    assert found["pretrain/pretrain"].parameters == {"config": "configs/demo.yaml"}
    assert "ingest/ingest" not in found


def test_what_cannot_be_deployed_is_said(project, tmp_path):
    with pytest.raises(UserError, match=rf"no configs/\*.yaml in {tmp_path}: run this in the folder of a project"):
        project()
    with pytest.raises(UserError, match=r"b.yaml:1: pretran: unknown key; did you mean pretrain\?"):
        project(configs__b="pretran: {}\n")
    with pytest.raises(UserError, match=r"two deployments would be called scrape/scrape: give the source another"):
        project(configs__b="", sources__scrape=SITE)
    (tmp_path / "sources" / "scrape.yaml").unlink()
    with pytest.raises(UserError, match=r"sources/one.yaml and \S*sources/two.yaml are both called one"):
        project(sources__one=SITE, sources__two=SITE + "name: one\n")


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
