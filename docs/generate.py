"""Write what the code and measured points say: docs/settings.md, docs/cli.md, and the tables of docs/results/bytes.md.

`make docs` runs this program before it builds the pages. The pages are kept in the repository, so that they can be read
where the repository is browsed and a changed default shows in a review. A test fails if they are out of date.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import typer
from pydantic import BaseModel
from scipy.interpolate import PchipInterpolator
from typer.testing import CliRunner

from airlora import Settings, load_settings
from airlora.cli import app
from airlora.reports.curve import STREAMS, TABLE_SIZES, size_table
from airlora.reports.curve_points import CURVE_METHODS, CurvePoint, CurveRow, byte_saving, pareto_front, summarise_curve
from airlora.tasks import Classification

FOLDER = Path(__file__).parent
PRESETS = ("quick", "standard", "paper-literal", "paper")
NOTICE = "<!-- Written by docs/generate.py. Change the source code or that program, then run `make docs`. -->"

SETTINGS_INTRODUCTION = f"""\
# Settings

{NOTICE}

A run takes its settings from four sources. Each overrides the one before it:

1. the preset (`--preset`): `quick` (the default) for two CPU cores, `standard` for a workstation, `paper-literal` for
   [the paper's method as printed](reference/paper.md), `paper` for the same with repairs,
2. the values that belong to the policy, see [below](#values-that-a-policy-sets),
3. a TOML file (`--config`),
4. single values (`--set section.key=value`, and the command's own options).

`settings.toml` in the folder of a run holds the resolved settings. The tables show the value of each setting in each
preset. A setting that is none can be left out; a TOML file has no such value.
"""

CLI_INTRODUCTION = f"""\
# Command line

{NOTICE}

`airlora` or `python -m airlora` followed by a command. A mistake of the user is one line on standard error and exit
code 2. Sizes are written as `4096`, `20kB` or `1.5MiB`. `airlora COMMAND --help` shows the same text as this page.
"""


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of each generated page by its file name."""
    return {"settings.md": settings_page(), "cli.md": cli_page(), "results/bytes.md": bytes_page()}


def bytes_page() -> str:
    """Return the page of losses against bytes, with tables of the points in `bytes.jsonl`."""
    points = [CurvePoint(**json.loads(line)) for line in (FOLDER / "results/bytes.jsonl").read_text().splitlines()]
    rows = summarise_curve(points, Classification.metrics[0])
    headings, lines = size_table(rows)
    losses = [row(headings), row(["---", *["---:"] * len(TABLE_SIZES)]), *map(row, lines)]
    methods = dict.fromkeys(own.method for own in rows)
    costs = [row(["method", "what it trains", "bytes that streams save", "CPU, s"]), "|---|---|---:|---:|"]
    for method in methods:
        saving = None if method in STREAMS else byte_saving(rows, STREAMS, [method], quantity="loss")
        saved = "–" if saving is None else f"{saving.mean:.0%} ± {100 * (saving.interval or 0):.0f}"
        jobs = {(point.run, point.job): point.cpu_seconds for point in points if point.job.split()[0] == method}
        costs.append(row([f"`{method}`", CURVE_METHODS[method], saved, f"{fmean(jobs.values()):.0f}"]))
    equal = ["| loss, nats | stream, bytes | Uni-LoRA, bytes | ratio |", "|---:|---:|---:|---:|"]
    ours, theirs = (bytes_at(rows, chosen) for chosen in (STREAMS, ["unilora"]))
    for loss in (0.35, 0.34, 0.33):
        own, other = float(ours(loss)), float(theirs(loss))
        equal.append(row([f"{loss:.2f}", f"{own:,.0f}", f"{other:,.0f}", f"{own / other:.2f}"]))
    text = (FOLDER / "results/bytes.md").read_text(encoding="utf-8")
    for name, table in (("losses", losses), ("equal", equal), ("costs", costs)):
        start, end = f"<!-- {name}: written by docs/generate.py from bytes.jsonl -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = "\n".join([before + start, "", *table, "", end]) + rest.split(end)[1]
    return text


def bytes_at(rows: list[CurveRow], methods: Collection[str]) -> Callable[[float], float]:
    """Return the bytes of the best rows of some methods as a function of the loss, interpolated in their logarithm."""
    front = pareto_front([own for own in rows if own.method in methods])[::-1]
    curve = PchipInterpolator([own.loss for own in front], [math.log(own.payload_bytes) for own in front])
    return lambda loss: math.exp(curve(loss))


def settings_page() -> str:
    """Return the page of all settings: type, description, and the value in every preset."""
    presets = {name: load_settings(name).model_dump() for name in PRESETS}
    lines = [SETTINGS_INTRODUCTION]
    for section, model in sections():
        values = {name: dump[section] if section else dump for name, dump in presets.items()}
        lines += [f"## {section or 'Top level'}", "", inspect.cleandoc(model.__doc__ or ""), ""]
        lines += ["| setting | " + " | ".join(f"`{name}`" for name in PRESETS) + " | description |"]
        lines += ["|---" * (len(PRESETS) + 2) + "|"]
        properties = model.model_json_schema()["properties"]
        for name, field in model.model_fields.items():
            if is_section(field.annotation):
                continue
            key = f"`{section}.{name}`" if section else f"`{name}`"
            cells = [
                f"{key}<br>{allowed(properties[name])}",
                *(code(values[preset].get(name, {})) for preset in PRESETS),
            ]
            lines.append(row([*cells, " ".join((field.description or "").split())]))
        lines.append("")
    return "\n".join([*lines, policy_section()])


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the name and the class of each section of settings, the top level first under an empty name."""
    yield "", Settings
    for name, field in Settings.model_fields.items():
        if is_section(field.annotation):
            yield name, field.annotation


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def allowed(schema: dict[str, Any]) -> str:
    """Return the type and the allowed values that a JSON schema describes, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return "list of " + re.sub(r"^(number|text)", r"\1s", allowed(schema["items"]))
    names = {
        "null": "none",
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "`true` or `false`",
        "object": "table",
    }
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {number(schema[bound])}" for bound, sign in bounds.items() if bound in schema]
    if "multipleOf" in schema:
        found.append(f"a multiple of {schema['multipleOf']}")
    return " ".join([names[schema["type"]], ", ".join(found)]).strip()


def policy_section() -> str:
    """Return the table of the settings that each policy changes in any preset."""
    result = CliRunner().invoke(app, ["policies", "--list", "--json"])
    lines = [
        "## Values that a policy sets",
        "",
        "`policy.name`, or the option `--policy`, also sets these values in every preset, unless they are given.",
        "",
        "| policy | description | values |",
        "|---|---|---|",
    ]
    for entry in json.loads(result.stdout):
        changed: dict[str, Any] = {}
        for preset in PRESETS:
            plain = flat(load_settings(preset).model_dump())
            chosen = flat(load_settings(preset, overrides={"policy.name": entry["policy"]}).model_dump())
            changed |= {key: value for key, value in chosen.items() if value != plain[key] and key != "policy.name"}
        values = "<br>".join(f"`{key}` {code(value)}" for key, value in changed.items())
        lines.append(row([f"`{entry['policy']}`", entry["summary"], values]))
    return "\n".join(lines) + "\n"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def cli_page() -> str:
    """Return the page of all commands: usage, help, arguments, and options with their defaults."""
    lines = [CLI_INTRODUCTION]
    for name, command in commands():
        # Commands may add to their parameters when they run, such as the list of importance measures.
        parameters = [item for item in command.get_params(typer.Context(command)) if item.name != "help"]
        usage = [name, *(part for parameter in parameters if (part := usage_of(parameter)))]
        lines += [f"## {name}", "", "```text", *wrapped(usage), "```", "", inspect.cleandoc(command.help or ""), ""]
        if parameters:
            lines += ["| option | default | description |", "|---|---|---|"]
            lines += [row([spelling(item), default_of(item), item.help or ""]) for item in parameters]
            lines.append("")
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield the full name and the object of each command that does something, in the order of `airlora --help`."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield name, command
        for child, inner in (children or {}).items():
            yield from walk(f"{name} {child}", inner)

    yield from walk("airlora", typer.main.get_command(app))


def usage_of(parameter: Any) -> str:
    """Return what a usage line says of an argument or a required option; nothing of other options."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    if parameter.required:
        return f"{parameter.opts[0]} {parameter.metavar}"
    return ""


def wrapped(words: list[str], width: int = 100) -> list[str]:
    """Return a usage line, which ends in `[OPTIONS]`, broken before it gets too long."""
    lines, words = [words[0]], [*words[1:], "[OPTIONS]"]
    for word in words:
        lines[-1:] = [f"{lines[-1]} {word}"] if len(lines[-1]) + len(word) < width else [lines[-1], f"    {word}"]
    return lines


def spelling(parameter: Any) -> str:
    """Return an option as it is typed, such as `--size SIZE`."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    return " ".join(["`" + ", ".join(parameter.opts), *([] if is_flag(parameter) else [parameter.metavar])]) + "`"


def is_flag(parameter: Any) -> bool:
    return bool(getattr(parameter, "is_flag", False))


def default_of(parameter: Any) -> str:
    """Return the default as `--help` shows it."""
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if is_flag(parameter):
        return "on" if parameter.default else "off"
    return code(parameter.default)


def code(value: Any) -> str:
    """Return a value as it is written in TOML; none as a word."""
    if value is None:
        return "none"
    if isinstance(value, list):
        items = (json.dumps(item) if isinstance(item, str) else number(item) for item in value)
        return "`[" + ", ".join(items) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{number(value) if isinstance(value, float) else value}`"


def number(value: float) -> str:
    return str(value) if isinstance(value, int) else re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")


def row(cells: list[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
