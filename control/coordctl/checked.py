"""YAML files read into pydantic models; what is wrong is told by key, value and mend."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from coordctl.errors import CoordctlError

Model = TypeVar("Model", bound=BaseModel)

_SHOWN: Final = 80


class Strict(BaseModel):
    """A model that takes no unknown key and is not changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises CoordctlError."""
    try:
        fields: Any = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise CoordctlError(f"{file} can't be read: {error.strerror}", mend=f"ls -l {file}"
                            ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CoordctlError(f"{file} is no YAML: {' '.join(str(error).split())}",
                            mend=f"edit {file}") from None
    if not isinstance(fields, dict):
        raise CoordctlError(f"{file} holds no keys such as 'name: home'", mend=f"edit {file}")
    return fields


def load(file: Path, model: type[Model], wanted: Mapping[str, str]) -> Model:
    """`file` as a `model`; `wanted`: for each key what would do. Raises CoordctlError."""
    return check(read(file), model, wanted, str(file), mend=f"edit {file}")


def check(fields: Mapping[str, Any], model: type[Model], wanted: Mapping[str, str], source: str,
          *, mend: str) -> Model:
    """`fields` as a `model`. Raises CoordctlError: the source, the key, the value, what would do.

    `wanted` is looked up by the whole key (`stack.store`), then by its last word.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise CoordctlError(f"{source}: {_first(error, model, wanted)}", mend=mend) from None


def _first(error: ValidationError, model: type[BaseModel], wanted: Mapping[str, str]) -> str:
    # A key that does not exist explains more than what is missing because of it.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    loc = [part for part in fault["loc"] if part != "[key]"]
    key = ".".join(map(str, loc))
    would = wanted.get(key) or wanted.get(str(loc[-1])) if loc else None
    value = repr(fault["input"])
    shown = value if len(value) <= _SHOWN else value[:_SHOWN] + " …"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, [str(part) for part in loc[:-1]])
        near = get_close_matches(str(loc[-1]), known, n=1)
        return (f"{key} is no key: " + (f"did you mean {near[0]}?" if near
                                        else f"{', '.join(known)} are"))
    if fault["type"] == "missing":
        return f"{key} is missing" + (f": {would}" if would else "")
    if fault["type"] == "value_error":
        said = fault["msg"].removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    if would is None and fault["type"] == "literal_error":
        would = f"{fault['ctx']['expected']} will do"
    return f"{key} is {shown}: {would or fault['msg']}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that `model` takes at `path`; a mapping's own keys are passed over."""
    for part in path:
        field = model.model_fields.get(part)
        if field is not None:
            model = _model_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if found := _model_in(argument):
            return found
    return None


class _Loader(yaml.SafeLoader):
    """A key that stands twice is an error: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader does."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
