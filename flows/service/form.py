"""Forms in which every field may be left empty, made from the configuration's models.

A configuration file gives all values; a run changes some. In the Prefect UI that change is a form with the types,
bounds and descriptions of the models, where what is left empty stays as the file says. The UI sends null for what is
left empty, so "none" stands for no value where the model allows that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, create_model, model_serializer

NO_VALUE = "none"


class Form(BaseModel, extra="forbid"):
    """Base of all forms; its value is what was filled in. `clearable` names the fields that take "none"."""

    clearable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The form filled in with these settings, where None means no value."""
        return cls.model_validate(_spelled_out(settings))

    @model_serializer(mode="wrap")
    def _filled_in(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: None if value == NO_VALUE and name in self.clearable else value
            for name, value in handler(self).items()
            if value is not None
        }


def form_of(model: type[BaseModel]) -> type[Form]:
    """The form of a model: the same fields, nested models included, each of them optional."""
    clearable = frozenset(name for name, field in model.model_fields.items() if _may_be_none(field.annotation))
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = _field_type(field.annotation, field.metadata)
        if name in clearable:
            kind = kind | Literal[NO_VALUE]
        fields[name] = (kind | None, Field(None, description=field.description))
    form = create_model(model.__name__, __base__=Form, __doc__=model.__doc__, **fields)
    form.clearable = clearable
    return form


def _may_be_none(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)


def _field_type(annotation: Any, metadata: list[Any]) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return form_of(annotation)
    if get_origin(annotation) in (Union, UnionType):
        variants = [variant for variant in get_args(annotation) if variant is not type(None)]
        if len(variants) == 1:  # X | None
            return _field_type(variants[0], metadata)
    return Annotated[annotation, *metadata] if metadata else annotation


def _spelled_out(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {name: _spelled_out(value) for name, value in settings.items()}
    return NO_VALUE if settings is None else settings
