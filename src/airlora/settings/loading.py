"""Reading of settings: TOML files, `KEY=VALUE` items, merging, and errors that name the setting.

Settings are nested dictionaries until a section validates them. A flat dictionary has dotted keys, such as
`{"finetune.steps": 100}`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from airlora.errors import SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.settings.fields import Section

__all__ = ["merge", "nest", "parse_items", "read_toml", "validate", "value_at", "write_toml"]

S = TypeVar("S", bound=Section)


def read_toml(path: Path | str) -> dict[str, Any]:
    """Return the contents of a TOML file of settings.

    Raises:
        SettingsError: The file is missing or is not TOML.
    """
    data = read_bytes(path, "settings file", SettingsError)
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:
        raise SettingsError(f"settings file {path}: not valid TOML ({error})") from error


def write_toml(section: Section, path: Path | str) -> None:
    """Write settings as a TOML file, without those that are none; raises `StorageError`."""
    write_bytes(path, tomli_w.dumps(section.model_dump(exclude_none=True)).encode())


def parse_items(items: Iterable[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` items of the command line as a flat dictionary.

    A value is read as TOML. A value that is not TOML is a string.

    Raises:
        SettingsError: An item has no key or no `=`.

    Examples:
        >>> parse_items(["adapter.r_max=16", "data.train=a.tsv"])
        {'adapter.r_max': 16, 'data.train': 'a.tsv'}
    """
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise SettingsError.of("--set", item, "KEY=VALUE, such as adapter.r_max=16")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    return values


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat dictionary as a nested one.

    Raises:
        SettingsError: A key is given as a value and as a section.

    Examples:
        >>> nest({"seed": 1, "finetune.steps": 100})
        {'seed': 1, 'finetune': {'steps': 100}}
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        section = nested
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise SettingsError.of(name, section, f"a section, since {key} is given too")
        section[last] = value
    return nested


def value_at(nested: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key of a nested dictionary."""
    value: Any = nested
    for name in key.split("."):
        value = value[name]
    return value


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries merged into one. Values of later layers override those of earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def validate(section: type[S], values: Mapping[str, Any], *, prefix: str = "") -> S:
    """Return settings that are made from a nested dictionary.

    Args:
        section: Class of the settings.
        values: Nested dictionary of their values.
        prefix: Dotted key of the section among all settings. Empty for the root of all settings.

    Raises:
        SettingsError: A key is unknown, or a value is not allowed. The message names the first such key, its value and
            what is allowed.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, section, prefix)) from error


def _explain(error: ValidationError, section: type[BaseModel], prefix: str) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(filter(None, [prefix, *map(str, first["loc"])]))
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        where = key.rpartition(".")[0] or "the settings"
        text = f"{key}: no such setting; {where} has {', '.join(_subsection(section, first['loc'][:-1]).model_fields)}"
    elif first["type"] == "missing":
        text = f"{key}: a value is required"
    else:
        allowed = first["msg"].removeprefix("Input should be ").removeprefix("List should have ")
        text = f"{key} = {first['input']!r}: allowed is {allowed}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return text + more


def _subsection(section: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    for name in path:
        annotation = section.model_fields[str(name)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return section
