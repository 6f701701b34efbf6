"""The examples of README and docs run, or at least use options that exist.

A comment above a block, which readers do not see, names the commands that would take minutes:
`<!-- not run: train -->`. `<!-- not run -->` stands for the whole block. The options of such commands are still parsed.
Pages of results record how their figures were made, so their commands do not run. Quantisation-aware fine-tuning never
runs.

Each page has a folder with data, a finished run, a stream and a PEFT adapter. A tiny model replaces the embedded one.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import typer
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

import airlora as package
from airlora.channel import link
from airlora.cli.app import app
from airlora.policy import specs
from commands import TINY, airlora

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "```" in page.read_text()]
RECORDS = (ROOT / "docs" / "results", ROOT / "docs" / "archive")

RUN = TINY | {
    "policy.name": "greedy",
    "policy.constant_rank": 1,
    "finetune.steps": 10,
    "adapter.r_max": 2,
    "adapter.target_modules": ["query"],
    "data.train": "train.tsv",
    "data.eval": "dev.tsv",
    "tensorboard": False,
}
SAVED_AS = re.compile(r"Save this as `(?P<name>\w+)\.py`")
NOT_RUN = re.compile(r"<!-- not run(?:: (?P<commands>[\w, ]+))? -->\s*\Z")
PORT = 8000


@pytest.fixture(autouse=True)
def tiny_embedded_model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = sys.modules[package.load_base_model.__module__]
    monkeypatch.setattr(models, "embedded_model_folder", lambda: tiny_model)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # Test workers share the cores.


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is gone for the tests that follow."""
    monkeypatch.setattr(specs, "_REGISTERED", {})
    monkeypatch.setattr(link, "LINK_PROCESSES", {})


@pytest.fixture
def folder(
    tiny_model: Path,
    tiny_decoder: Path,
    tiny_data: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder, with everything that the examples expect to be there."""
    made = tmp_path_factory.getbasetemp() / "examples"
    if not made.exists():
        made.mkdir()
        monkeypatch.chdir(made)
        shutil.copytree(tiny_model, "base-model")
        shutil.copytree(tiny_decoder, "tiny-decoder")
        for name in ("train.tsv", "dev.tsv", "test.tsv"):
            shutil.copy(tiny_data[name != "train.tsv"], name)
        record = package.train(package.load_settings("quick", overrides=RUN), "runs/mine")
        Path("ranks.json").write_text(record.rank_pattern.to_json())
        shutil.copytree("runs/mine", "runs/newer")
        for command in ("pack runs/mine adapter.airs", "export runs/mine some-lora"):
            assert airlora(*command.split()).returncode == 0
    own = tmp_path_factory.mktemp("page")
    shutil.copytree(made, own, dirs_exist_ok=True)
    monkeypatch.chdir(own)
    return own


class Shell:
    """Evaluates blocks of commands; a server that a page starts runs until `close`."""

    def __init__(self) -> None:
        self._address = ""
        self._server: subprocess.Popen[str] | None = None

    def __call__(self, example: Example) -> None:
        for words in commands_in(example.parsed):
            program, arguments = Path(words[0]).name, words[1:]
            if program == "airlora":
                parse(arguments)
                if runs(example, arguments[0]):
                    self.run(arguments)
            elif program == "make":
                assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
            elif program == "python":
                assert (ROOT / arguments[0]).is_file(), words
            else:
                assert program in ("pip", "sudo"), words

    def run(self, arguments: list[str]) -> None:
        if "--qat-steps" in arguments:
            arguments[arguments.index("--qat-steps") + 1] = "0"
        if arguments[0] == "serve":
            self.serve(arguments)
            return
        result = airlora(*(word.replace(f"http://localhost:{PORT}", self._address) for word in arguments))
        assert result.returncode == 0, f"airlora {shlex.join(arguments)}\n{result.stderr}"

    def serve(self, arguments: list[str]) -> None:
        arguments[arguments.index(str(PORT))] = "0"
        command = [sys.executable, "-m", "airlora", *arguments]
        self._server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._server.stderr
        self._address = self._server.stderr.readline().split()[-1]

    def close(self) -> None:
        if self._server:
            self._server.terminate()
            self._server.communicate()


def commands_in(block: str) -> Iterator[list[str]]:
    """Yield the words of every command after a `$`, without comments; a backslash continues a line."""
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            for command in shlex.join(shlex.split(line[2:], comments=True)).split(shlex.quote("&&")):
                yield shlex.split(command)


def parse(arguments: list[str]) -> None:
    """Fail if a command or an option does not exist, or a required one is missing; `...` stands for some options."""
    command, words = typer.main.get_command(app), [word for word in arguments if word != "..."]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(shlex.join(arguments), words)


def runs(example: Example, command: str = "") -> bool:
    """Whether an example runs: it is no record, and no comment above the block excludes it."""
    found = NOT_RUN.search(example.document.text[: example.start])
    excluded = found is not None and (not found["commands"] or command in found["commands"].split(", "))
    return not excluded and not any(Path(example.path).is_relative_to(folder) for folder in RECORDS)


def evaluate_python(example: Example) -> None:
    compile(example.parsed, example.path, "exec")
    if runs(example):
        PythonEvaluator()(example)
        # The code of a page that names a module goes there, block by block, for the commands that follow.
        if saved := SAVED_AS.search(example.document.text[: example.start]):
            with Path(f"{saved['name']}.py").open("a") as file:
                file.write(example.parsed + "\n\n")
            sys.modules.pop(saved["name"], None)


def evaluate_toml(example: Example) -> None:
    """Parse a block, and load it as settings if its first line is a comment with the name of a file."""
    tomllib.loads(example.parsed)
    if example.parsed.startswith("# "):
        path = Path(example.parsed.splitlines()[0].removeprefix("# "))
        path.write_text(example.parsed)
        package.load_settings(toml=path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_work(page: Path, folder: Path) -> None:
    shell = Shell()
    evaluators: dict[str, Callable[[Example], None]] = {
        "console": shell,
        "python": evaluate_python,
        "toml": evaluate_toml,
    }
    parsers = [CodeBlockParser(language, evaluator) for language, evaluator in evaluators.items()]
    try:
        for example in Document.parse(str(page), *parsers):
            example.evaluate()
    finally:
        shell.close()
