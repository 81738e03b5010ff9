"""Types of what people write down: a boolean is no number, a text is none either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.lib import plain_yaml
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.reading import read_text
from bench.lib.wording import quoted

# Bounds here are all that a field has: pydantic takes the last of two. Nothing is infinite.
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole: TypeAlias = Annotated[int, Field(strict=True, ge=0)]
Amount: TypeAlias = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag: TypeAlias = Annotated[bool, Field(strict=True)]


class StrictModel(BaseModel):
    """A frozen record that refuses keys which it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Model = TypeVar("_Model", bound=StrictModel)


def validated(model: type[_Model], data: object, where: str) -> _Model:
    """The record that plain data describes.

    Args:
        model: its class.
        data: as read from a file.
        where: opens every message: the file.

    Raises:
        BenchError: names the key and what is wrong with it; of an unknown key, what is close.
    """
    if not isinstance(data, dict):
        raise BenchError(f"{where}: expected a mapping of keys at the top, not {quoted(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key also leaves the right one missing; the misspelling is the cause.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        location = [str(part) for part in first["loc"]]
        place = ".".join(location)
        if first["type"] == "extra_forbidden":
            unknown = UnknownNameError("key", location[-1], _keys(model, location[:-1]))
            raise BenchError(f"{where}: {place}: {unknown}") from error
        message = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        text = str(message)
        said = f"{text[:1].lower()}{text[1:]}"
        raise BenchError(f"{where}: {place}: {said}" if place else f"{where}: {said}") from error


def read_yaml(model: type[_Model], path: Path) -> _Model:
    """The record that a YAML file describes.

    Raises:
        BenchError: it is not there or not valid; names the file, and the key.
    """
    try:
        data = plain_yaml.load(read_text(path, plain_yaml.MOST_BYTES))
    except plain_yaml.YamlError as error:
        raise BenchError(f"{path}: not valid YAML: {error}") from error
    return validated(model, data, str(path))


def _keys(model: type[BaseModel], location: Iterable[str]) -> list[str]:
    """The keys of a record, or of one that lies in it."""
    for part in location:
        names = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in names:
            # An index of a list or a free key of a mapping; what lies behind is of the same field.
            continue
        inner = list(_models(names[part].annotation))
        if inner:
            model = inner[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records in a type such as `tuple[Row, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
