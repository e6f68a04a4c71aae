"""The container files and docs/deploying.md against the code: what they copy, call, set and promise.

Nothing is built here. Docker Compose's own validation and hadolint run where they are installed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet
from prefect.cli._app import _app as prefect_cli
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from prefect.settings.legacy import _get_settings_fields
from prefect.settings.models.root import Settings
from prefect.utilities.templating import find_placeholders

from flows.cli import app
from flows.engine.training import GRACE_SECONDS
from flows.pipeline.config import load_config
from flows.service import deployments
from flows.service import server as service

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((PROJECT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
TEMPLATES = ["docker", "kubernetes"]
DEPLOYING = (PROJECT / "docs" / "deploying.md").read_text()
SIGTERM_BEHAVIOR = "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"  # no setting, but read by `prefect flow-run execute`


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, as (name, rest of the line)."""
    text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def named(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def template(name: str) -> dict:
    """The base job template of a work pool."""
    return json.loads((PROJECT / "deploy" / f"{name}.json").read_text())


def commands() -> Iterator[list[str]]:
    """What the container files and the documentation tell people and machines to call."""
    yield json.loads(named("CMD")[0])
    for entry in SERVICES.values():
        if "command" in entry:
            yield [re.sub(r"\$\{\w+:-(.*)}", r"\1", word) for word in entry["command"]]
    for block in re.findall(r"^```sh\n(.*?)^```", DEPLOYING, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            start = next((place for place, word in enumerate(words) if word in ("prefect", "textmill")), None)
            if start is not None:  # `docker compose run --rm worker textmill run …`
                yield words[start:]


@pytest.mark.parametrize("words", list(commands()), ids=shlex.join)
def test_every_command_is_one_that_the_program_takes(words):
    program, *arguments = words
    if program == "prefect":
        prefect_cli.parse_args(arguments, exit_on_error=False, print_error=False)
        return
    command, context, name = typer.main.get_command(app), None, program
    while arguments != ["--help"]:
        context = command.make_context(name, list(arguments), parent=context)
        if not hasattr(command, "resolve_command"):
            break
        name, command, arguments = command.resolve_command(context, arguments)


def test_the_image_holds_the_packages_and_what_the_service_reads():
    sources = {word for copied in named("COPY") for word in copied.split()[:-1]}
    assert all((PROJECT / source).exists() for source in sources)
    packages = {pattern.removesuffix("*") for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= sources
    needed = {"prefect.yaml", "configs", "pyproject.toml", "constraints.txt"}
    assert {str(name) for name in needed} | {PYPROJECT["project"]["readme"]} <= sources
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == sources


def test_the_image_has_a_python_and_a_torch_that_the_project_takes():
    arguments = dict(argument.partition("=")[::2] for argument in named("ARG"))
    assert arguments["PYTHON"] in SpecifierSet(PYPROJECT["project"]["requires-python"])
    (torch,) = [line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch")]
    assert torch in (PROJECT / "constraints.txt").read_text().splitlines()
    for build in ("cpu", "cu126"):
        assert f"{torch.partition('==')[2]}+{build}" in SpecifierSet(torch.removeprefix("torch"))
    assert arguments["TORCH_INDEX"] == ""
    assert SERVICES["server"]["build"]["args"] == {"TORCH_INDEX": "${TORCH_INDEX:-}", "EXTRAS": "${EXTRAS:-}"}


def test_the_kernels_are_compiled_by_the_user_who_loads_them():
    names = [name for name, _ in instructions()]
    assert names.index("USER") < instructions().index(("RUN", "textmill compile"))


def test_the_store_of_every_configuration_is_the_volume():
    (folder,), (volume,), (user,) = named("WORKDIR"), named("VOLUME"), named("USER")
    for config in (PROJECT / "configs").glob("*.yaml"):
        assert f"{folder}/{Path(load_config(config).store).relative_to(PROJECT)}" == volume
    assert f"useradd --create-home --uid {user} " in " ".join(named("RUN"))
    for name in ("worker", "trainer"):
        assert SERVICES[name]["volumes"] == [f"store:{volume}"]
    assert template("docker")["variables"]["properties"]["volumes"]["default"] == [f"{COMPOSE['name']}_store:{volume}"]
    kubernetes = template("kubernetes")
    pod = kubernetes["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert volume in [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert pod["securityContext"]["runAsUser"] == int(user)
    claim = yaml.safe_load((PROJECT / "deploy" / "store-claim.yaml").read_text())
    assert kubernetes["variables"]["properties"]["store_claim"]["default"] == claim["metadata"]["name"]


def test_environment_variables_are_settings_that_prefect_has():
    known = {*_get_settings_fields(Settings), SIGTERM_BEHAVIOR}
    templates = [template(name)["variables"]["properties"]["env"]["default"] for name in TEMPLATES]
    for environment in (*(entry.get("environment", {}) for entry in SERVICES.values()), *templates):
        assert {name for name in environment if name.startswith("PREFECT_")} <= known
    for text in (DEPLOYING, *named("ENV")):
        assert {*re.findall(r"PREFECT_[A-Z_]+", text)} <= known
    assert SERVICES["server"]["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == service.LEASE_STORAGE


def test_the_server_finds_its_database(monkeypatch):
    for name, value in SERVICES["server"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_PASSWORD", "p@ss/word")  # as URLs do not take it
    with temporary_settings():
        address = PREFECT_API_DATABASE_CONNECTION_URL.value_from(Settings())
    postgres = SERVICES["postgres"]["environment"]
    assert address == (
        f"postgresql+asyncpg://{postgres['POSTGRES_USER']}:p%40ss%2Fword@postgres:5432/{postgres['POSTGRES_DB']}"
    )
    assert postgres["POSTGRES_USER"] in SERVICES["postgres"]["healthcheck"]["test"]


def test_ports_and_addresses_agree():
    start = SERVICES["server"]["command"]
    port = start[start.index("--port") + 1]
    assert SERVICES["server"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}/api/health" in SERVICES["server"]["healthcheck"]["test"][-1]
    docker = template("docker")["variables"]["properties"]
    environments = [SERVICES[name]["environment"] for name in ("deploy", "worker", "trainer")]
    for environment in (*environments, docker["env"]["default"]):
        assert environment["PREFECT_API_URL"] == f"http://server:{port}/api"
    assert docker["networks"]["default"] == [f"{COMPOSE['name']}_default"]


def test_every_queue_has_a_worker_and_every_worker_time_to_stop():
    declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    workers = [entry for entry in SERVICES.values() if entry.get("command", [])[:2] == ["textmill", "worker"]]
    served = [entry["command"][entry["command"].index("--queue") + 1] for entry in workers]
    assert sorted(served) == sorted({entry["work_pool"]["work_queue_name"] for entry in declared})
    for entry in workers:
        assert int(entry["stop_grace_period"].removesuffix("s")) >= service.CANCEL_SECONDS + service.STOP_SECONDS
        assert entry["depends_on"] == {"deploy": {"condition": "service_completed_successfully"}}
    assert {*re.findall(r"(?:work-pool create|--pool) (\w+)", DEPLOYING)} == {deployments.POOL}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_job_template_uses_what_it_declares(name):
    variables = template(name)["variables"]
    jsonschema.Draft202012Validator.check_schema(variables)
    defaults = {key: field["default"] for key, field in variables["properties"].items() if "default" in field}
    jsonschema.validate(defaults, variables)
    used = {placeholder.name for placeholder in find_placeholders(template(name)["job_configuration"])}
    assert used == variables["properties"].keys()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_job_template_is_one_that_its_worker_takes(name):
    worker = pytest.importorskip(f"prefect_{name}.worker", reason=f"needs prefect-{name}")
    configuration = getattr(worker, f"{name.capitalize()}WorkerJobConfiguration")
    assert template(name)["job_configuration"].keys() <= configuration.model_fields.keys()


def test_the_documentation_knows_the_variables_of_the_job_templates():
    rows = re.findall(r"^\| (`\w+`.*?) \|", DEPLOYING, re.MULTILINE)
    declared = {key for name in TEMPLATES for key in template(name)["variables"]["properties"]}
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} <= declared


def test_a_pod_has_time_to_save():
    grace = template("kubernetes")["variables"]["properties"]["grace_period_seconds"]
    assert grace["default"] >= grace["minimum"] >= GRACE_SECONDS + 15


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose here")
def test_docker_compose_takes_the_files():
    """Also with the GPU's file laid over it, and not without a password."""
    both = ["docker-compose", "--file", "compose.yaml", "--file", "compose.gpu.yaml", "config"]
    environment = {"PATH": os.environ["PATH"]}
    refused = subprocess.run(both, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert "put POSTGRES_PASSWORD" in refused.stderr
    environment["POSTGRES_PASSWORD"] = "secret"
    taken = subprocess.run(both, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr
    merged = yaml.safe_load(taken.stdout)["services"]
    assert merged["trainer"]["deploy"]["resources"]["reservations"]["devices"][0]["count"] == -1  # all
    assert "deploy" not in merged["worker"]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint here")
def test_hadolint_has_nothing_to_say():
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
