import json
from pathlib import Path

import numpy as np
import pytest

from airlora.adapters import read_adapter_metadata
from airlora.codec import decode_stream
from airlora.errors import SettingsError
from airlora.packing import IMPORTANCE_MEASURES
from airlora.settings.sizes import parse_size
from commands import airlora, centred, logits_by_peft, refused, tiny_flags


@pytest.fixture(scope="session")
def stream(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of the run's adapter as a stream of 16 bits per parameter."""
    out = tmp_path_factory.mktemp("streams") / "adapter.airs"
    result = airlora("pack", run, out, "--bits", 16, "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert {"payload_bytes", "num_segments", "num_components", "bits_per_param"} <= value.keys()
    assert value["payload_bytes"] == out.stat().st_size
    assert value["num_components"] == 48
    return out


def on(model: Path, data: tuple[Path, Path]) -> list[object]:
    """Return the options for the data and the base model."""
    return ["--data", data[1], "--model", model]


def measured(*arguments: object) -> dict[str, float]:
    result = airlora("evaluate", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    value: dict[str, float] = json.loads(result.stdout)
    return value


def logits(*arguments: object, out: Path) -> np.ndarray:
    assert airlora("evaluate", *arguments, "--predictions", out).returncode == 0
    return np.asarray([json.loads(line)["logits"] for line in out.read_text().splitlines()])


def test_a_stream_of_16_bits_has_the_logits_of_the_adapter(
    run: Path, stream: Path, tiny_data: tuple[Path, Path], tmp_path: Path, tiny_model: Path
) -> None:
    own = logits(run, "--rank", 4, out=tmp_path / "a")
    found = logits(stream, *on(tiny_model, tiny_data), out=tmp_path / "b")
    np.testing.assert_allclose(centred(found), centred(own), atol=2e-3)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--size", "2kB"],
        ["--bits", "4"],
        ["--qat-steps", "3"],
        ["--qat-steps", "3", "--whole"],
        *(["--importance", name] for name in IMPORTANCE_MEASURES),
    ],
)
def test_every_way_of_packing_makes_a_stream(
    run: Path, tmp_path: Path, tiny_data: tuple[Path, Path], flags: list[str], tiny_model: Path
) -> None:
    out = tmp_path / "s.airs"
    assert airlora("pack", run, out, *flags).returncode == 0
    value = measured(out, *on(tiny_model, tiny_data))
    assert value["payload_bytes"] == out.stat().st_size
    assert 0.0 <= value["accuracy"] <= 1.0


def test_every_prefix_is_an_adapter_and_longer_ones_are_closer(
    run: Path, stream: Path, tiny_data: tuple[Path, Path], tmp_path: Path, tiny_model: Path
) -> None:
    whole = logits(stream, *on(tiny_model, tiny_data), out=tmp_path / "whole")
    size = stream.stat().st_size
    gaps, used = [], []
    for share in (0.4, 0.7, 1.0):
        upto = round(share * size)
        used.append(measured(stream, "--upto", upto, *on(tiny_model, tiny_data))["payload_bytes"])
        assert used[-1] <= upto
        gaps.append(
            np.abs(logits(stream, "--upto", upto, *on(tiny_model, tiny_data), out=tmp_path / "prefix") - whole).mean()
        )
    assert used[0] < used[1] < used[2] == size
    assert gaps[0] > gaps[2] == 0.0


def test_an_unpacked_prefix_has_the_rank_pattern_of_the_stream(
    stream: Path, tmp_path: Path, tiny_data: tuple[Path, Path], tiny_model: Path
) -> None:
    result = airlora("unpack", stream, tmp_path / "out", "--upto", "3kB", "--model", tiny_model, "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["payload_bytes"] <= 3000
    assert not value["is_complete"]
    metadata = read_adapter_metadata(tmp_path / "out" / "adapter.safetensors")
    assert sum(metadata.rank_pattern.ranks) == value["num_components"]
    assert json.loads((tmp_path / "out" / "stream.json").read_text())["rank_pattern"] == value["rank_pattern"]


@pytest.mark.parametrize("of", ["run", "stream"])
def test_stock_peft_computes_the_same_logits_from_an_export(
    run: Path, stream: Path, of: str, tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    source = run if of == "run" else stream
    assert airlora("export", source, tmp_path / "peft", "--for", "peft", "--model", tiny_model).returncode == 0
    found = logits_by_peft(tmp_path / "peft", tiny_model, tiny_data[1])
    own = logits(source, *on(tiny_model, tiny_data), out=tmp_path / "own")
    np.testing.assert_allclose(found, own, atol=1e-4)


@pytest.mark.parametrize("target", ["vllm", "llama.cpp"])
def test_exports_for_servers_with_one_rank_have_no_head(
    stream: Path, target: str, tmp_path: Path, tiny_model: Path
) -> None:
    result = airlora("export", stream, tmp_path / "out", "--for", target, "--model", tiny_model, "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["has_head"] is False
    assert (tmp_path / "out" / "adapter_config.json").exists()


def test_a_peft_adapter_is_imported_as_a_stream(
    stream: Path, tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    assert airlora("export", stream, tmp_path / "peft", "--model", tiny_model).returncode == 0
    flags = ["--labels", "0,1", "--bits", 32, "--model", tiny_model, "--json"]
    result = airlora("import", tmp_path / "peft", tmp_path / "back.airs", *flags)
    assert result.returncode == 0, result.stderr
    own = logits(stream, *on(tiny_model, tiny_data), out=tmp_path / "a")
    back = logits(tmp_path / "back.airs", *on(tiny_model, tiny_data), out=tmp_path / "b")
    np.testing.assert_allclose(back, own, atol=1e-4)


def test_an_adapter_without_a_classification_head_is_refused(stream: Path, tmp_path: Path, tiny_model: Path) -> None:
    assert airlora("export", stream, tmp_path / "served", "--for", "vllm", "--model", tiny_model).returncode == 0
    # The export for vLLM has no head.
    refused(airlora("import", tmp_path / "served", tmp_path / "s", "--model", tiny_model), "head", "SEQ_CLS")
    assert airlora("export", stream, tmp_path / "peft", "--model", tiny_model).returncode == 0
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"task_type": "CAUSAL_LM"}))
    refused(airlora("import", tmp_path / "peft", tmp_path / "s", "--model", tiny_model), "CAUSAL_LM")
    assert not (tmp_path / "s").exists()


def test_components_beyond_a_modules_rank_are_not_sent(stream: Path, tmp_path: Path, tiny_model: Path) -> None:
    flags = ["--model", tiny_model, "--json"]
    assert airlora("export", stream, tmp_path / "peft", "--upto", "3kB", "--model", tiny_model).returncode == 0
    prefix = json.loads(airlora("unpack", stream, tmp_path / "prefix", "--upto", "3kB", *flags).stdout)
    back = json.loads(airlora("import", tmp_path / "peft", tmp_path / "b.airs", "--bits", 32, *flags).stdout)
    used, wanted = ({n: r for n, r in found["rank_pattern"].items() if r} for found in (back, prefix))
    assert used == wanted


def test_invalid_input_is_refused(
    run: Path, stream: Path, tmp_path: Path, tiny_data: tuple[Path, Path], tiny_model: Path
) -> None:
    data = on(tiny_model, tiny_data)
    damaged, newer, foreign, prefix = (tmp_path / name for name in ("damaged", "newer", "foreign", "prefix"))
    content = stream.read_bytes()
    damaged.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    newer.write_bytes(content[:4] + bytes([99]) + content[5:])
    foreign.write_bytes(b"PK\x03\x04" + content)
    prefix.write_bytes(content[: len(content) // 2])
    refused(airlora("evaluate", damaged, *data), "segment")
    refused(airlora("evaluate", newer, *data), "version", "99")
    refused(airlora("evaluate", foreign, *data), "not written by airlora")
    assert not decode_stream(prefix.read_bytes()).is_complete
    assert airlora("evaluate", prefix, *data).returncode == 0
    refused(airlora("evaluate", stream, "--model", tiny_model), "--data")
    refused(airlora("evaluate", stream, "--data", tiny_data[1]), "tiny-bert", "--model")
    refused(airlora("evaluate", stream, *data, "--upto", "800B"), "classification head")
    refused(airlora("pack", run, tmp_path / "s", "--bits", "8", "--size", "10kB"), "size = 10000", "auto")
    refused(airlora("pack", run, tmp_path / "s", "--size", "9kB", "--distortion", ".1"), "distortion = 0.1")
    # A stream that holds the classification head alone has no component to fine-tune.
    for steps in ("0", "3"):
        made = airlora("pack", run, tmp_path / f"s{steps}", "--size", "100", "--qat-steps", steps, "--json")
        assert json.loads(made.stdout)["num_components"] == 0
    assert (tmp_path / "s0").read_bytes() == (tmp_path / "s3").read_bytes()
    refused(airlora("pack", run, tmp_path / "s", "--since", damaged, "--qat-steps", "3"), "segment")
    refused(airlora("evaluate", stream, *data, "--upto", "10B"), "= 10", "header")
    refused(airlora("evaluate", run, "--upto", "10kB"), "upto")
    refused(airlora("evaluate", stream, *data, "--rank", 1), "--upto", "--rank")
    refused(airlora("evaluate", stream, *data, "--upto", "many"), "size = 'many'", "20kB")
    refused(airlora("unpack", tmp_path / "none.airs", tmp_path / "x"), "none.airs")
    refused(airlora("pack", run, tmp_path / "no" / "where.airs"), "where.airs")
    refused(airlora("pack", run, tmp_path / "s", "--bits", "7"), "bits = '7'", "auto, 32, 16, 8 or 4")
    refused(airlora("pack", run, tmp_path / "s", "--importance", "luck"), "importance = 'luck'", "singular_value")
    refused(airlora("pack", run, tmp_path / "s", "--qat-steps", "-1"), "qat_steps = -1")
    refused(airlora("pack", run, tmp_path / "s", "--distortion", "2"), "distortion = 2")
    refused(airlora("pack", tmp_path, tmp_path / "s"), "run.json")
    refused(airlora("export", stream, tmp_path / "e", "--for", "onnx", "--model", tiny_model), "onnx")
    refused(airlora("import", tmp_path, tmp_path / "s"), "adapter_config.json")
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "x").exists()


def test_a_stream_of_another_base_model_is_refused(
    stream: Path, tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    weights = tiny_model / "model.safetensors"
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-2000] + b"\x00\x00\x80\x3f" * 250 + before[-1000:])
        refused(airlora("evaluate", stream, *on(tiny_model, tiny_data)), "made for the base model")
    finally:
        weights.write_bytes(before)


@pytest.mark.parametrize("text", ["", "kB", "-3", "1e400", "nan", "3 furlongs"])
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="size"):
        parse_size(text)


def test_a_delta_and_its_base_stream_decode_to_the_newer_adapter(
    run: Path, tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    old, new, delta = tmp_path / "old.airs", tmp_path / "new.airs", tmp_path / "delta.airs"
    options = ("--importance", "singular_value", "--distortion", 0.05)
    assert airlora("pack", run, old, *options).returncode == 0
    # A few more steps of the same training, from the same seed.
    later = tmp_path / "later"
    flags = tiny_flags(tiny_model, tiny_data)
    assert airlora("train", "--out", later, "--steps", 62, *flags).returncode == 0
    assert airlora("pack", later, new, *options).returncode == 0
    result = airlora("pack", later, delta, *options, "--since", old, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["payload_bytes"] == delta.stat().st_size <= new.stat().st_size
    # A delta without changes is small.
    same = airlora("pack", run, tmp_path / "same.airs", *options, "--since", old, "--json")
    value = json.loads(same.stdout)
    assert (
        value["base_stream"]
        == json.loads(airlora("unpack", old, tmp_path / "o", "--model", tiny_model, "--json").stdout)["digest"]
    )
    assert value["payload_bytes"] < old.stat().st_size
    measured = [
        json.loads(airlora("evaluate", stream, "--data", tiny_data[1], "--model", tiny_model, "--json", *more).stdout)
        for stream, more in ((old, ()), (tmp_path / "same.airs", ("--since", old)))
    ]
    assert measured[0]["loss"] == pytest.approx(measured[1]["loss"], abs=1e-3)
    assert (
        airlora("unpack", tmp_path / "same.airs", tmp_path / "u", "--model", tiny_model, "--since", old).returncode == 0
    )
    # A delta needs its complete base stream.
    refused(airlora("evaluate", tmp_path / "same.airs", "--data", tiny_data[1], "--model", tiny_model), "stream")
    refused(
        airlora("evaluate", tmp_path / "same.airs", "--data", tiny_data[1], "--model", tiny_model, "--since", new),
        "stream",
    )
    half = tmp_path / "half.airs"
    half.write_bytes(old.read_bytes()[: old.stat().st_size // 2])
    refused(airlora("pack", run, delta, "--since", half), "stream", "truncated")
    refused(airlora("evaluate", run, "--since", old), "since", "stream")
