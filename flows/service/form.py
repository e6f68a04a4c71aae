"""The run forms of the Prefect UI: one for each stage, for a pipeline and for an experiment.

A form is a mapping from a parameter's name to the JSON schema of its field, in the order of the page. A flow takes its
signature from one, and a deployment is given one that knows the values of its configuration. A field that is left empty
is not sent, and stays as the configuration says; null stands for no value where the model allows that.

Prefect's page decides how a field is written. One that may be left empty is not required, has no default and one type:
of `X | None` it would make a choice of types. A boolean setting is a choice of true and false, because a toggle is
never empty: it would overrule the configuration, and a preset, with whatever it shows.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import MISSING, BaseModel, Field

from experiments.catalog import NAMES as EXPERIMENTS
from flows.pipeline.chain import STAGES
from flows.pipeline.config import PipelineConfig, load_config
from textmill.errors import UserError
from textmill.secrets import holds_secret, mask_addresses
from textmill.settings import affects_output, kind_names, layered, models_in

Form = dict[str, dict[str, Any]]
Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_CONFIG = "configs/demo.yaml"
LONGEST_VALUE = 120  # characters of a present value that a description shows
PLAIN = re.compile(r"[\w .,:/…+-]+")  # text that Markdown leaves as it is
COMMON = {"force", "overrides", "build_missing", "verify", "config"}  # fields of a stage's form beside its settings
REQUIRED = {"experiment": ["name"]}  # by flow: the fields that it cannot do without


@dataclass(frozen=True)
class Present:
    """What a part of a form stands at while its fields are empty.

    Attributes:
        where: path of the configuration.
        settings: what it says, with what the deployment says in place of it; None where it has no such part.
        deployed: what the deployment says.
    """

    where: str = ""
    settings: BaseModel | None = None
    deployed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, name: str) -> Present:
        below, deployed = getattr(self.settings, name, None), self.deployed.get(name)
        return Present(
            self.where, below if isinstance(below, BaseModel) else None, deployed if isinstance(deployed, dict) else {}
        )

    def value(self, name: str) -> str:
        """`configs/demo.yaml: 200`, or nothing where the value depends on the machine or there is none."""
        if self.settings is None:
            return ""
        known, value = type(self.settings).model_fields[name], getattr(self.settings, name)
        if known.default_factory and not affects_output(known) and name not in self.settings.model_fields_set:
            return ""
        return f"{'this deployment' if name in self.deployed else self.where}: {_shown(value)}"


def run_form(flow: str, config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `parameter_openapi_schema` of a deployment.

    Args:
        flow: a stage, `pipeline` or `experiment`.
        config: the deployment's configuration; a stage's form shows its values.
        overrides: what the deployment sets otherwise than the configuration.

    Raises:
        UserError: a mistake in the configuration.
    """
    if flow == "pipeline":
        form = pipeline_form()
    elif flow == "experiment":
        form = experiment_form()
    else:
        settings = getattr(load_config(config, overrides), flow) if config else None
        if isinstance(settings, list) and len(settings) > 1:
            form = _form_of_several(flow, [item.name for item in settings])
        else:
            settings = next(iter(settings), None) if isinstance(settings, list) else settings
            form = stage_form(flow, Present(str(config), settings, _deployed(flow, overrides or {})))
    placed = {name: {"title": name, "position": place, **field} for place, (name, field) in enumerate(form.items())}
    return {
        "title": "Parameters", "type": "object", "properties": placed,
        "required": REQUIRED.get(flow, []), "definitions": {},
    }  # fmt: skip


def stage_form(stage: str, present: Present = Present()) -> Form:
    """The form of one stage alone: its own settings as fields, those of others as JSON."""
    example = {"pretrain": {"steps": 400}} if stage != "pretrain" else {"pretokenize": {"threads": 2}}
    return {
        "force": _toggle("Build it again although the store has it"),
        **_fields(section_of(stage), present),
        "overrides": _overrides("other settings", example),
        "build_missing": {
            **_toggle("Also build what the store lacks of the stages before it"),
            "title": "build what is missing",
        },
        "verify": _toggle("Before anything is reused, compare the SHA-256 of its files"),
        "config": _config(),
    }


def _deployed(stage: str, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """What overrides say of a stage, or of the only one of a list, whose number they may leave out."""
    own = overrides.get(stage) or {}
    if isinstance(own, list):
        [own] = own
    first = own.get("0")
    return {**first, **own} if isinstance(first, Mapping) else own


def _form_of_several(stage: str, names: list[str]) -> Form:
    """The form of a stage that the configuration has several of, such as collections: their settings as JSON."""
    own = section_of(stage).model_fields
    form = {name: field for name, field in stage_form(stage).items() if name not in own}
    numbered = ", ".join(f"{number} is {name}" for number, name in enumerate(names))
    settings = _overrides("settings", {stage: {"0": {"limit": 1000}}})
    settings["description"] += f". Of {stage}, {numbered}"
    return {**form, "overrides": settings}


def pipeline_form() -> Form:
    """The form of a pipeline: which stages, and the settings of all of them as JSON."""
    stages = {"type": "string", "enum": list(STAGES)}
    return {
        "force": {
            "type": "array", "items": stages,
            "description": "Stages to build again; what follows them is rebuilt only if they come out different",
        },
        "start": {**stages, "description": "Build this stage and all that is made from it again"},
        "verify": _toggle("Before anything is reused, compare the SHA-256 of its files"),
        "overrides": _overrides("settings", {"pretrain": {"steps": 400}, "scrape": {"max_pages": 100}}),
        "config": _config(),
    }  # fmt: skip


def experiment_form() -> Form:
    """The form of an experiment."""
    return {
        "name": {"type": "string", "enum": list(EXPERIMENTS), "description": "Which claim to test"},
        "seeds": {
            "type": "integer", "minimum": 1,
            "description": "How often each variant is run, each time with another seed; empty: as the experiment says",
        },
        "quick": _toggle("Only try whether it runs: small settings, one seed, no verdict"),
        "extend": _toggle("Go on where the best value of a sweep is the last of those tried"),
        "overrides": _overrides("settings", {"pretrain": {"steps": 400}}),
        "config": _config(),
    }  # fmt: skip


def takes(form: Form, required: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Decorator: the function is called with the parameters of a form, without those that were left empty."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(**given: Any) -> Any:
            return function(**{name: value for name, value in given.items() if value is not MISSING})

        del call.__wrapped__  # its parameters are the form's
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter(name, field, name in required) for name, field in form.items()]
        )
        return call  # type: ignore[return-value]

    return decorate


def overrides_of(stage: str, settings: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a stage's form comes to as overrides of the configuration: its fields win over the other settings."""
    filled = _filled_in([section_of(stage)], checked(settings))
    return layered(checked(overrides), {stage: filled} if filled else {})


def _filled_in(kinds: list[type[BaseModel]], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was filled in of the form of these models: the page sends a box that was left empty as an empty mapping,
    which would clear what the configuration says of that part."""
    filled = {}
    for name, value in given.items():
        fields = (kind.model_fields[name] for kind in kinds if name in kind.model_fields)
        parts = [part for field in fields for part in _part(field.annotation)]
        if parts and isinstance(value, Mapping):
            value = _filled_in(parts, value)
            if not value:
                continue
        filled[name] = value
    return filled


def parameters_of(stage: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's form that comes to these overrides."""
    own = overrides.get(stage)
    if not isinstance(own, Mapping):
        return {"overrides": dict(overrides)} if overrides else {}
    others = {name: value for name, value in overrides.items() if name != stage}
    fields = section_of(stage).model_fields
    unknown = {name: value for name, value in own.items() if name not in fields}
    if unknown:
        others[stage] = unknown
    known = {name: value for name, value in own.items() if name in fields}
    return {**known, "overrides": others} if others else known


def checked(overrides: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What was filled in as JSON.

    Raises:
        UserError: it is not an object, or holds a secret, which the server would show to all who look at the run.
    """
    if not isinstance(overrides, Mapping | None):
        raise UserError(f'settings: {json.dumps(overrides)} is not an object such as {{"pretrain": {{"steps": 400}}}}')
    if holds_secret(overrides):
        raise UserError(
            "the settings hold a password, a token or a signature, and the server keeps a run's parameters: write a "
            "variable of the environment instead, as in https://user:${PASSWORD}@host/, and delete a run that has it"
        )
    return overrides or {}


def section_of(stage: str) -> type[BaseModel]:
    """The model of the settings of a stage."""
    [model] = models_in(PipelineConfig.model_fields[stage].annotation)
    return model


def _parameter(name: str, field: dict[str, Any], required: bool) -> inspect.Parameter:
    extra = {key: value for key, value in field.items() if key != "default"}
    default = inspect.Parameter.empty if required else Field(field.get("default", MISSING))
    kind = Annotated[Any, Field(json_schema_extra=extra)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _part(annotation: Any) -> list[type[BaseModel]]:
    """The models that a form in a box is of: one, or kinds of one thing, which have more in common than a name for the
    kind. None of another choice of models, which may be written in other ways than by its fields."""
    models = models_in(annotation)
    common = set.intersection(*(set(model.model_fields) for model in models)) if models else set()
    return models if len(models) == 1 or len(common) > 1 else []


def _fields(model: type[BaseModel], present: Present) -> Form:
    """The fields of a model, its own before those that it has in common with others: plain ones, and after them its
    parts, each a form in a box of its own."""
    schemas = model.model_json_schema()["properties"]
    plain: Form = {}
    parts: Form = {}
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in model.__annotations__):
        if kinds := _part(field.annotation):
            described = field.description or inspect.cleandoc(kinds[0].__doc__ or "").partition("\n\n")[0]
            below = {key: {"title": key, **value} for key, value in _fields_of_kinds(kinds, present.of(name)).items()}
            parts[name] = {"type": "object", "properties": below, "description": described}
        else:
            plain[name] = {**_field(schemas[name]), "description": _sentences(field.description, present.value(name))}
    return plain | parts


def _fields_of_kinds(kinds: list[type[BaseModel]], present: Present) -> Form:
    """The fields of one model, or of all kinds of one thing, as the present kind has them before the others; what some
    kinds do not have says which do."""
    if len(kinds) == 1:
        return _fields(kinds[0], present)
    form: Form = {}
    for model in sorted(kinds, key=lambda model: not isinstance(present.settings, model)):
        for name, field in _fields(model, present if isinstance(present.settings, model) else Present()).items():
            having = [kind for other in kinds if name in other.model_fields for kind in kind_names(other)]
            note = f"{', '.join(having)}: " if len(having) < len(kinds) else ""
            form.setdefault(name, {**field, "description": note + field["description"]})
    kind = {"enum": [name for model in kinds for name in kind_names(model)], "description": form["kind"]["description"]}
    return {"kind": kind, **{name: field for name, field in form.items() if name != "kind"}}


def _field(schema: dict[str, Any]) -> dict[str, Any]:
    """A field that may be left empty, or a JSON editor where the page has no simpler one."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    if len(kinds) > 1 or "$ref" in json.dumps(kinds):
        return {}
    [kind] = kinds
    if kind.get("type") == "boolean":
        return {"enum": [True, False]}
    hidden = {"default", "title", "description", "affects_output", "silent_default", "unless"}
    return {key: value for key, value in kind.items() if key not in hidden} | (
        {"enum": schema["enum"]} if "enum" in schema else {}
    )


def _toggle(description: str) -> dict[str, Any]:
    return {"type": "boolean", "default": False, "description": description}


def _overrides(title: str, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "title": title,
        "description": "JSON in place of what the configuration says; null clears a value. For example "
        f"`{json.dumps(example)}`",
    }


def _config() -> dict[str, Any]:
    return {"type": "string", "default": DEFAULT_CONFIG, "description": "Path of the configuration"}


def _sentences(*texts: str | None) -> str:
    """One after the other, each but the last with a full stop."""
    said = [text for text in texts if text]
    return " ".join([*(text if text.endswith((".", "…")) else f"{text}." for text in said[:-1]), *said[-1:]])


def _shown(value: Any) -> str:
    """A value as a description shows it, which is Markdown: what that would change as code."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = mask_addresses(text)
    short = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
    return short if PLAIN.fullmatch(short) else f"`{short}`"
