"""Runs of free components that are trained for a size."""

import itertools
import json
from pathlib import Path

import pytest

from airlora.codec import decode_stream
from commands import airlora, refused

SIZE = 4000
SETTINGS = {
    "data.max_length": 16,
    "finetune.batch_size": 8,
    "finetune.precision": "float32",
    "finetune.eval_every": 100,
    "adapter.r_max": 4,
    "env.frozen_batch_size": 6,
    "env.frozen_batches": 3,
    "num_threads": 1,
    "tensorboard": "false",
}


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: tuple[Path, Path]) -> Path:
    """A finished run for a size of the stream."""
    out = tmp_path_factory.mktemp("runs") / "sized"
    settings = [flag for key, value in SETTINGS.items() for flag in ("--set", f"{key}={value}")]
    files = ("--train", tiny_data[0], "--eval", tiny_data[1], "--model", tiny_model)
    result = airlora("train", "--out", out, *files, "--size", SIZE, "--steps", 40, *settings, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["stream"]["bytes"] == (out / "stream.airs").stat().st_size
    return out


def test_the_run_writes_a_stream_of_the_size_with_its_metrics(
    sized: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    assert 0.9 * SIZE <= (sized / "stream.airs").stat().st_size <= SIZE
    record = json.loads((sized / "run.json").read_text())
    assert record["steps"] == 32
    result = airlora("evaluate", sized / "stream.airs", "--data", tiny_data[1], "--model", tiny_model, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["loss"] == pytest.approx(record["stream"]["loss"], abs=1e-6)


def test_packing_takes_the_steps_of_the_run(sized: Path, tmp_path: Path) -> None:
    for flags, is_tuned in (((), True), (("--qat-steps", 0), False), (("--bits", 8), False)):
        result = airlora("pack", sized, tmp_path / "out.airs", *flags)
        assert result.returncode == 0, result.stderr
        assert ("quantisation-aware" in result.stderr) == is_tuned


def test_the_planned_stream_is_tuned_for_the_link(sized: Path, tmp_path: Path) -> None:
    link = ("--snr-db", 0, "--bandwidth-hz", 4800)
    out = tmp_path / "planned.airs"
    plans = {}
    for steps in (8, 0):
        result = airlora("plan", sized, *link, *(() if steps else ("--qat-steps", 0)), "--out", out, "--json")
        assert result.returncode == 0, result.stderr
        plans[steps] = json.loads(result.stdout)
        assert out.stat().st_size <= plans[steps]["budget_bytes"] == 600
        assert decode_stream(out.read_bytes()).num_components > 0
        assert ("quantisation-aware" in result.stderr) == bool(steps)
    assert plans[8]["expected_loss"] <= plans[0]["expected_loss"] + 0.01


def test_pairs_of_texts_are_trained_and_read_alike(
    tiny_model: Path, tiny_data: tuple[Path, Path], tmp_path: Path
) -> None:
    files = []
    for path in tiny_data:
        lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        rows = [f"{label}\t{text}\t{other}" for (label, text), (_, other) in itertools.pairwise(lines)]
        files.append(tmp_path / path.name)
        files[-1].write_text("\n".join(["label\tfirst\tsecond", *rows]) + "\n")
    columns = {"data.text_column": "first", "data.text_pair_column": "second"}
    settings = [flag for key, value in {**SETTINGS, **columns}.items() for flag in ("--set", f"{key}={value}")]
    run = tmp_path / "run"
    given = ("--train", files[0], "--eval", files[1], "--model", tiny_model, "--size", SIZE, "--steps", 20)
    result = airlora("train", "--out", run, *given, *settings)
    assert result.returncode == 0, result.stderr
    record = json.loads((run / "run.json").read_text())
    # The receiver reads the second text because the stream says so.
    result = airlora("evaluate", run / "stream.airs", "--data", files[1], "--model", tiny_model, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["loss"] == pytest.approx(record["stream"]["loss"], abs=1e-6)
    result = airlora("evaluate", run / "stream.airs", "--data", tiny_data[1], "--model", tiny_model)
    refused(result, "column 'first' is missing")
