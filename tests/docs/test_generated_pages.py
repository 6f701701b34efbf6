"""The pages of settings and commands say what the code does."""

import runpy
from pathlib import Path

import pytest

from airlora import load_settings
from airlora.packing import Packing

DOCS = Path(__file__).parents[2] / "docs"
GENERATE = runpy.run_path(str(DOCS / "generate.py"))

WITHOUT_DEFAULT = (
    *("--config", "--health", "--out", "--picture", "--predictions", "--private-key", "--probe", "--role"),
    *("--rollout-first", "--rollout-group", "--run", "--set", "--since", "--size", "--tenant", "--token-file"),
)
"""Options without which a command leaves something out, so that there is no default to state."""


def shown_default(command: str, option: str) -> str:
    parameters = dict(GENERATE["commands"]())[f"airlora {command}"].params
    return str(GENERATE["default_of"](next(item for item in parameters if option in item.opts)))


def test_the_generated_pages_are_up_to_date() -> None:
    stale = [name for name, text in GENERATE["pages"]().items() if (DOCS / name).read_text() != text]
    assert stale == [], "run `python docs/generate.py`"


def test_every_setting_has_a_description() -> None:
    descriptions = {
        f"{section}.{name}": field.description or ""
        for section, model in GENERATE["sections"]()
        for name, field in model.model_fields.items()
        if not GENERATE["is_section"](field.annotation)
    }
    assert len(descriptions) > 100
    assert [key for key, text in descriptions.items() if len(text) < 15 or not text.endswith(".")] == []


def test_the_settings_page_shows_the_effective_value_of_every_preset() -> None:
    lines = (DOCS / "settings.md").read_text().splitlines()
    found = {key: line for line in lines for key in ("policy.name", "env.objective") if line.startswith(f"| `{key}`")}
    assert "| `greedy` | `greedy` | `airllm` | `airllm` |" in found["policy.name"]
    assert "| `frozen` | `frozen` | `live` | `live` |" in found["env.objective"]


def test_every_option_has_a_help_text_and_states_its_default() -> None:
    parameters = [(name, item) for name, command in GENERATE["commands"]() for item in command.params]
    assert [f"{name} {item.opts[0]}" for name, item in parameters if not item.help] == []
    silent = {
        f"{name} {item.opts[0]}"
        for name, item in parameters
        if not item.required and item.default is None and not isinstance(item.show_default, str)
    }
    assert {name for name in silent if name.split()[-1] not in WITHOUT_DEFAULT} == set(), "give it a `show_default`"


@pytest.mark.parametrize(
    ("option", "key"),
    [("--model", "model.name"), ("--policy", "policy.name"), ("--steps", "finetune.steps"), ("--seed", "seed")],
)
def test_the_help_of_train_states_the_values_of_the_presets(option: str, key: str) -> None:
    values = {str(GENERATE["flat"](load_settings(name).model_dump())[key]) for name in GENERATE["PRESETS"]}
    assert [value for value in values if value not in shown_default("train", option)] == []


@pytest.mark.parametrize("command", ["pack", "import", "curve", "publish"])
def test_the_help_states_the_distortion_that_packing_uses(command: str) -> None:
    assert shown_default(command, "--distortion") == str(Packing().max_distortion)
