"""Settings and options for people: the kind of value, the default, and what each does, from the models themselves."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ...config import DURATION, SIZE, duration_text, size_text

_KINDS: Final[dict[Any, str]] = {bool: "true or false", int: "number", float: "number", str: "text", dict: "table"}


@dataclass(frozen=True)
class Field:
    """One setting or option. `default` is as a person writes it, or None. `text` says what it does."""

    name: str
    kind: str
    default: str | None
    text: str


def fields_of(model: type[BaseModel]) -> tuple[Field, ...]:
    """The fields of a model, in its order."""
    texts = _texts(model)
    return tuple(
        Field(
            field.alias or name,
            kind_of(field),
            written(field, field.get_default(call_default_factory=True)),
            texts.get(name, ""),
        )
        for name, field in model.model_fields.items()
    )


def kind_of(field: FieldInfo) -> str:
    """What a value looks like: `duration`, `size`, `number`, `text`, the words to choose from, ..."""
    kinds = dict.fromkeys(_kinds(field.annotation, field.metadata))
    return " or ".join(kinds)


def written(field: FieldInfo, value: object) -> str | None:
    """A value of a field as a person writes it, such as `250ms` or `1GiB`; None for None."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    marks = [*_marks(field.annotation), *field.metadata]
    if DURATION in marks and isinstance(value, int | float):
        return duration_text(value)
    if SIZE in marks and isinstance(value, int):
        return size_text(value)
    return json.dumps(value) if isinstance(value, Mapping | tuple | list) else str(value)


def _kinds(annotation: Any, marks: list[Any]) -> Iterator[str]:
    origin = get_origin(annotation)
    if annotation is type(None):
        return
    if origin is Annotated:
        inner, *own = get_args(annotation)
        yield from _kinds(inner, [*marks, *own])
    elif origin in {Union, types.UnionType}:
        for each in get_args(annotation):
            yield from _kinds(each, marks)
    elif origin is Literal:
        yield from map(str, get_args(annotation))
    elif DURATION in marks:
        yield "duration"
    elif SIZE in marks:
        yield "size"
    elif annotation is SecretStr:
        yield "secret"
    elif origin in {tuple, list}:
        yield "list"
    else:
        yield _KINDS.get(origin or annotation, "text")


def _marks(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from get_args(annotation)[1:]
    for each in get_args(annotation):
        yield from _marks(each)


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """The texts below the fields in the source, of the model and of those that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError, SyntaxError, ValueError):  # the source is not there, as in a frozen program
            continue
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ):
                    found[name] = " ".join(words.split())
                case _:
                    pass
    return found
