"""The page on the paper's presets states the values that the presets have."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from airlora import Settings, load_settings
from airlora.training.presets import REPAIRS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "paper.md").read_text()
LITERAL, _, REPAIRED = PAGE.partition("\n## Repairs\n")
VALUE = re.compile(r"`([a-z_]+(?:\.[a-z0-9_]+)?) = ([^`]+)`")


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def stated(text: str) -> list[tuple[str, Any]]:
    return [(key, tomllib.loads(f"value = {value}")["value"]) for key, value in VALUE.findall(text)]


@pytest.mark.parametrize(("key", "value"), stated(LITERAL))
def test_the_page_states_the_values_of_the_literal_preset(key: str, value: Any) -> None:
    assert value_of(load_settings("paper-literal"), key) == value


def test_the_table_of_repairs_is_that_of_the_code() -> None:
    table = REPAIRED.partition("\n### ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(REPAIRS)
    for row, repair in zip(rows, REPAIRS.values(), strict=True):
        assert row[2] == ("-" if repair.erratum is None else str(repair.erratum))
        assert dict(stated(row[3])) == repair.overrides


def test_all_thirteen_errata_are_listed() -> None:
    errata = LITERAL.partition("### Errata")[2].partition("### Where")[0]
    assert re.findall(r"^\| (\d+) \|", errata, re.MULTILINE) == [str(number) for number in range(1, 14)]


def test_every_setting_of_the_literal_preset_that_is_no_default_is_on_the_page() -> None:
    literal, default = load_settings("paper-literal").model_dump(), Settings().model_dump()
    differing = {
        f"{section}.{name}"
        for section, values in literal.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if value != default[section][name]
    }
    named = {key for key, _ in stated(LITERAL)} | {"model.name", "data.name"}
    # Table II states these two, and the page of settings lists them.
    assert differing - named <= {"adapter.r_max", "diffusion.learning_rate"}
