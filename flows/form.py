"""Forms in which every field may be left empty, made from the configuration's models.

A configuration file gives all values; a run changes some. In the Prefect UI that change is a form with the types,
bounds and descriptions of the models, where what is left empty stays as the file says.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, create_model, model_serializer


class Form(BaseModel, extra="forbid"):
    """Base of all forms; only what was filled in is part of its value."""

    @model_serializer(mode="wrap")
    def _filled_in(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


def form_of(model: type[BaseModel]) -> type[Form]:
    """The form of a model: the same fields, nested models included, each of them optional."""
    fields = {
        name: (_field_type(field.annotation, field.metadata) | None, Field(None, description=field.description))
        for name, field in model.model_fields.items()
    }
    return create_model(model.__name__, __base__=Form, __doc__=model.__doc__, **fields)


def _field_type(annotation: Any, metadata: list[Any]) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return form_of(annotation)
    if get_origin(annotation) in (Union, UnionType):
        variants = [variant for variant in get_args(annotation) if variant is not type(None)]
        if len(variants) == 1:  # X | None
            return _field_type(variants[0], metadata)
    return Annotated[annotation, *metadata] if metadata else annotation
