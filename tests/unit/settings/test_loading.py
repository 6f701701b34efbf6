from pathlib import Path

import pytest

from airlora.errors import SettingsError
from airlora.settings.fields import PositiveInt, Section
from airlora.settings.loading import merge, nest, parse_items, read_toml, validate, value_at, write_toml


class Inner(Section):
    size: PositiveInt = 1


class Outer(Section):
    name: str | None = None
    inner: Inner = Inner()


def test_items_are_toml_values_or_plain_strings() -> None:
    items = ["a.b=3", "c = [1.5, 2]", "d=true", "e=x=y", "f="]
    assert parse_items(items) == {"a.b": 3, "c": [1.5, 2], "d": True, "e": "x=y", "f": ""}
    for item in ("alone", "=3"):
        with pytest.raises(SettingsError, match=f"--set = '{item}': allowed is KEY=VALUE"):
            parse_items([item])


def test_dotted_keys_are_nested_and_read_back() -> None:
    nested = nest({"a.b.c": 1, "a.d": 2, "e": 3})
    assert nested == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert [value_at(nested, key) for key in ("a.b.c", "a.d", "e")] == [1, 2, 3]


def test_later_layers_override_earlier_ones_key_by_key() -> None:
    layers = {"a": {"x": 1, "y": 1}, "b": 1}, {"a": {"y": 2}}, {"a": {"z": 3}, "b": {"w": 4}}
    assert merge(*layers) == {"a": {"x": 1, "y": 2, "z": 3}, "b": {"w": 4}}
    assert layers[0] == {"a": {"x": 1, "y": 1}, "b": 1}
    assert merge() == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"size": 0}}, "inner.size = 0: allowed is greater than or equal to 1"),
        ({"inner": {"sise": 2}}, "inner.sise: no such setting; inner has size"),
        ({"nothing": 1}, "nothing: no such setting; the settings has name, inner"),
        ({"nothing": 1, "inner": 3}, r"inner = 3: allowed is .* \(and 1 more\)"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        validate(Outer, values)


def test_settings_survive_a_toml_file(tmp_path: Path) -> None:
    settings = Outer(inner=Inner(size=7))
    write_toml(settings, tmp_path / "s.toml")
    assert validate(Outer, read_toml(tmp_path / "s.toml")) == settings
    assert read_toml(tmp_path / "s.toml") == {"inner": {"size": 7}}
