import logging
import pkgutil
import subprocess
import sys

import pytest
import typer

import airlora.cli
from airlora.cli.app import RENAMED_OPTIONS, app, is_quiet, show_progress
from airlora.packing import IMPORTANCE_MEASURES
from airlora.progress import LiveProgress, SilentProgress
from commands import airlora as run
from commands import refused

COMMANDS = sorted(typer.main.get_group(app).commands)


def test_every_module_of_the_package_is_imported() -> None:
    names = {module.name for module in pkgutil.iter_modules(airlora.cli.__path__)} - {"__main__"}
    assert {f"airlora.cli.{name}" for name in names} <= set(sys.modules)
    assert {"train", "evaluate", "pack", "unpack", "export", "import", "publish", "edge", "repo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_a_help_text(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout
    assert "None" not in result.stdout


@pytest.mark.parametrize("command", ["pack", "curve", "publish"])
def test_the_help_describes_all_importance_measures(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = run(command, "--help").stdout
    for name, measure in IMPORTANCE_MEASURES.items():
        assert shown.count(f"`{name}` ({measure.cost}): {measure.help}.") == 1


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.strip() == airlora.__version__


def test_the_list_of_commands_does_not_import_torch() -> None:
    code = "import sys; from airlora.cli import app; print('torch' in sys.modules, 'peft' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("command", "old"), RENAMED_OPTIONS)
@pytest.mark.parametrize("value", ["=3", " 3"])
def test_renamed_options_are_refused_with_their_new_name(command: str, old: str, value: str) -> None:
    new = RENAMED_OPTIONS[command, old]
    refused(run("-v", *command.split(), "run", *f"{old}{value}".split()), old, f"use {new}")


def test_renamed_importance_measures_are_refused_with_their_new_name() -> None:
    refused(run("pack", "run", "out", "--importance", "path"), "'path'", "integrated_gradient")


@pytest.mark.parametrize(
    ("flags", "level"),
    [([], logging.WARNING), (["-v"], logging.INFO), (["-vv"], logging.DEBUG), (["-q"], logging.ERROR)],
)
def test_the_log_level_follows_the_options(flags: list[str], level: int) -> None:
    assert run(*flags, "policies", "--list").returncode == 0
    log = logging.getLogger("airlora")
    assert log.level == level
    assert len(log.handlers) == 1
    assert is_quiet() == (level == logging.ERROR)
    with show_progress() as progress:
        assert isinstance(progress, SilentProgress if is_quiet() else LiveProgress)


def test_quiet_and_verbose_exclude_each_other() -> None:
    refused(run("-q", "-v", "policies"), "-q or -v")


def test_log_records_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    run("-v", "policies", "--list")
    logging.getLogger("airlora.packing.pack").info("kept")
    assert "INFO airlora.packing.pack: kept" in capsys.readouterr().err
