import json
from pathlib import Path

import numpy as np
import pytest

from airlora.codec import decode_stream, truncate
from airlora.training import seeded_recipe
from commands import airlora, logits_by_peft, refused

PREFIX, SIZE = 1100, 1500
SETTINGS = {
    "data.max_length": 16,
    "finetune.batch_size": 8,
    "finetune.precision": "float32",
    "finetune.eval_every": 100,
    "finetune.learning_rate": 0.01,
    "env.frozen_batch_size": 6,
    "env.frozen_batches": 3,
    "num_threads": 1,
    "tensorboard": "false",
}


def train(out: Path, model: Path, data: tuple[Path, Path], *flags: object) -> "object":
    settings = [flag for key, value in SETTINGS.items() for flag in ("--set", f"{key}={value}")]
    files = ("--train", data[0], "--eval", data[1], "--model", model)
    return airlora("train", "--out", out, *files, "--size", SIZE, "--size", PREFIX, "--steps", 60, *settings, *flags)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: tuple[Path, Path]) -> Path:
    """A finished run of a seeded adapter."""
    out = tmp_path_factory.mktemp("runs") / "seeded"
    result = train(out, tiny_model, tiny_data)
    assert result.returncode == 0, result.stderr
    return out


def logits(*arguments: object, out: Path) -> np.ndarray:
    result = airlora("evaluate", *arguments, "--predictions", out)
    assert result.returncode == 0, result.stderr
    return np.asarray([json.loads(line)["logits"] for line in out.read_text().splitlines()])


def test_run_and_stream_and_export_are_one_model(
    seeded: Path, tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    stream = seeded / "stream.airs"
    assert 0.98 * SIZE <= stream.stat().st_size <= SIZE
    own = logits(seeded, out=tmp_path / "run.jsonl")
    sent = logits(stream, "--model", tiny_model, "--data", tiny_data[1], out=tmp_path / "stream.jsonl")
    np.testing.assert_allclose(sent, own, atol=1e-5)
    assert airlora("export", seeded, tmp_path / "peft", "--for", "peft").returncode == 0
    np.testing.assert_allclose(logits_by_peft(tmp_path / "peft", tiny_model, tiny_data[1]), own, atol=1e-4)


def test_the_number_of_parameters_is_that_of_the_coefficients(seeded: Path) -> None:
    record = json.loads((seeded / "run.json").read_text())
    assert record["num_params"] == sum(seeded_recipe(PREFIX, SIZE)["adapter.num_coefficients"])


def test_the_coefficients_are_packed_for_other_sizes(seeded: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.airs"
    assert airlora("pack", seeded, again).returncode == 0
    assert again.read_bytes() == (seeded / "stream.airs").read_bytes()
    small = tmp_path / "small.airs"
    result = airlora("pack", seeded, small, "--size", 900)
    assert result.returncode == 0, result.stderr
    assert 0.94 * 900 <= small.stat().st_size <= 900
    assert decode_stream(small.read_bytes(), strict=True).coefficients is not None


@pytest.mark.parametrize("flags", [("--bits", 8), ("--qat-steps", 3), ("--importance", "singular_value")])
def test_options_of_free_components_are_refused(seeded: Path, tmp_path: Path, flags: tuple[object, ...]) -> None:
    refused(airlora("pack", seeded, tmp_path / "out.airs", *flags), "a seeded adapter was trained", "--size")
    assert not (tmp_path / "out.airs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--policy", "greedy"), ("policy.name = 'greedy'", "'constant'", "adapter.form")),
        (("--set", "adapter.nested_probability=0.5"), ("adapter.nested_probability = 0.5", "adapter.form")),
    ],
)
def test_settings_of_free_components_are_refused(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path], flags: tuple[object, ...], words: tuple[str, ...]
) -> None:
    refused(train(tmp_path / "run", tiny_model, tiny_data, *flags), *words)
    assert not (tmp_path / "run").exists()


def test_a_size_below_header_and_head_is_refused(tmp_path: Path) -> None:
    refused(airlora("train", "--out", tmp_path / "run", "--size", "0.5kB"), "size = '500 bytes'", "1000 bytes or more")


@pytest.mark.parametrize(("bandwidth_hz", "budget"), [(12_000, 1500), (9600, 1200), (8400, 1050)])
def test_a_plan_sends_what_the_link_carries(seeded: Path, bandwidth_hz: int, budget: int, tmp_path: Path) -> None:
    link = ("--snr-db", 0, "--bandwidth-hz", bandwidth_hz)
    result = airlora("plan", seeded, *link, "--out", tmp_path / "planned.airs", "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert (value["policy"], value["budget_bytes"]) == ("stream", budget)
    assert value["payload_bytes"] <= budget
    stream = (seeded / "stream.airs").read_bytes()
    planned = (tmp_path / "planned.airs").read_bytes()
    if len(stream) <= budget:
        assert planned == stream
    assert decode_stream(planned).coefficients is not None


def test_a_prefix_holds_the_coefficients_that_were_trained_for_it(seeded: Path) -> None:
    data = (seeded / "stream.airs").read_bytes()
    whole, prefix = decode_stream(data), decode_stream(truncate(data, len(data) - 1))
    assert whole.coefficients is not None
    assert prefix.coefficients is not None
    first, second = seeded_recipe(PREFIX, SIZE)["adapter.num_coefficients"]
    np.testing.assert_array_equal(prefix.coefficients[:first], whole.coefficients[:first])
    np.testing.assert_array_equal(prefix.coefficients[first:], np.zeros(second))
    assert abs(prefix.bytes_used - PREFIX) < 0.15 * PREFIX


def test_a_link_and_a_deadline_set_the_size(tiny_model: Path, tiny_data: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [flag for key, value in SETTINGS.items() for flag in ("--set", f"{key}={value}")]
    files = ("--train", tiny_data[0], "--eval", tiny_data[1], "--model", tiny_model)
    link = ("--snr-db", 0, "--bandwidth-hz", 6000, "--deadline-s", 2)
    result = airlora("train", "--out", tmp_path / "run", *files, *link, "--steps", 2, *settings)
    assert result.returncode == 0, result.stderr
    assert 1400 < (tmp_path / "run" / "stream.airs").stat().st_size <= 1500


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--snr-db", 5), "--snr-db, --bandwidth-hz, --deadline-s"),
        (("--deadline-s", 5), "--snr-db, --bandwidth-hz, --deadline-s"),
        (("--snr-db", 5, "--bandwidth-hz", 1e4, "--size", "4kB"), "--snr-db, --bandwidth-hz, --deadline-s"),
        (("--snr-db", 5, "--bandwidth-hz", 1e4, "--deadline-s", 0), "deadline_s = 0"),
        (("--size", "2kB", "--size", "2100"), "difference of two sizes"),
        (("--size", "500"), "size = '500 bytes'"),
    ],
)
def test_sizes_that_cannot_be_trained_are_refused(flags: tuple[object, ...], message: str, tmp_path: Path) -> None:
    refused(airlora("train", "--out", tmp_path / "run", *flags), message)
    assert not (tmp_path / "run").exists()
