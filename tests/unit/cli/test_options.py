from typing import Any

import pytest

from airlora.cli.options import parse_bits, parse_precision, parse_settings, parse_upto
from airlora.errors import SettingsError


def test_settings_are_read_as_toml_or_text() -> None:
    items = ["adapter.r_max=16", "channel.snr_db=[0, 5.5]", "model.name=some/folder", "tensorboard = false"]
    values = {"adapter.r_max": 16, "channel.snr_db": [0, 5.5], "model.name": "some/folder", "tensorboard": False}
    assert parse_settings(items) == values
    assert parse_settings(None) == {}


@pytest.mark.parametrize("item", ["adapter.r_max", "=3", " =3"])
def test_settings_without_key_or_value_are_refused(item: str) -> None:
    with pytest.raises(SettingsError, match="KEY=VALUE"):
        parse_settings([item])


def test_renamed_settings_are_refused_with_their_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlora.cli.options.RENAMED_SETTINGS", {"policy.old": "policy.new"})
    with pytest.raises(SettingsError, match="policy.old was renamed: use policy.new"):
        parse_settings(["policy.old=1"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("auto", None, None), {"bits": "auto"}),
        (("8", None, None), {"bits": 8}),
        (("auto", 0.2, None), {"bits": "auto", "max_distortion": 0.2}),
        (("auto", None, "12kB"), {"bits": "auto", "max_bytes": 12_000}),
    ],
)
def test_options_of_precision_become_arguments(options: Any, expected: dict[str, object]) -> None:
    assert parse_precision(*options) == expected


@pytest.mark.parametrize("options", [("8", 0.2, None), ("auto", 0.2, "12kB")])
def test_a_distortion_excludes_fixed_bits_and_sizes(options: Any) -> None:
    with pytest.raises(SettingsError, match="distortion"):
        parse_precision(*options)


def test_bits_and_sizes_are_parsed() -> None:
    assert (parse_bits("auto"), parse_bits("16")) == ("auto", 16)
    assert (parse_upto(None), parse_upto("20kB")) == (None, 20_000)
    with pytest.raises(SettingsError, match="bits = '7'"):
        parse_bits("7")
