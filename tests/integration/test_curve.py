import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from airlora.packing import Packing
from airlora.workflows.curve_jobs import _stored
from commands import airlora, refused, tiny_flags

STEPS = ("--baseline-steps", 10, "--tuning-steps", 2)
METHODS = ("stream", "sized", "unpolished", "singular", "constant", "full", "adalora", "lora", "ia3", "seeded")
CURVE = ("--ranks", "1,8", "--qat-steps", 3, "--size", 2000, *STEPS, "--for", 1100)
CURVE = (*CURVE, *(flag for name in METHODS for flag in ("--method", name)))


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished curve."""
    out = tmp_path_factory.mktemp("curve")
    result = airlora("curve", run, "--out", out, *CURVE)
    assert result.returncode == 0, result.stderr
    assert "accuracy against bytes" in result.stdout
    return out


def test_every_method_and_precision_is_on_the_curve(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    by_series: dict[str, list[dict[str, float]]] = {}
    for row in results["points"]:
        by_series.setdefault(row["series"], []).append(row)
    fixed = {f"{name} {bits} bit" for name in ("adalora", "lora", "ia3") for bits in (32, 8, 6, 4)}
    fixed |= {f"constant {bits} bit" for bits in (32, 8, 4)}
    assert set(by_series) == {"stream", "sized", "seeded", "unpolished", "singular", "full 32 bit"} | fixed
    for rows in by_series.values():
        sizes = [row["payload_bytes"] for row in rows]
        assert sizes == sorted(sizes)
        assert all(0.0 <= row["accuracy"] <= 1.0 and row["loss"] > 0.0 for row in rows)
    assert {row["label"] for row in by_series["lora 8 bit"]} == {"rank 1", "rank 8"}
    assert {row["label"] for row in by_series["constant 8 bit"]} == {"rank 1", "rank 2", "rank 4"}
    assert {row["label"] for row in by_series["sized"] + by_series["seeded"]} == {"1100 B"}
    assert by_series["seeded"][0]["payload_bytes"] <= 1100
    full, unpolished = by_series["full 32 bit"][0], by_series["unpolished"][-1]
    assert unpolished["payload_bytes"] < full["payload_bytes"] / 2
    # No measurement changes the adapter of the next one.
    assert by_series["constant 32 bit"][-1]["loss"] == full["loss"]
    assert abs(unpolished["loss"] - full["loss"]) < 0.02


def test_the_loss_of_smaller_prefixes_rises_gradually(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    for series in ("stream", "unpolished"):
        losses = [row["loss"] for row in results["points"] if row["series"] == series]
        assert len(losses) >= 2
        # No prefix is worse than chance, and no step between sizes is large.
        assert max(losses) < 0.72
        assert max(before - after for before, after in pairwise(losses)) < 0.4


def test_the_report_shows_findings_and_all_points(folder: Path) -> None:
    page, figure = (folder / "report.html").read_text(), (folder / "curve.svg").read_text()
    results = json.loads((folder / "results.json").read_text())
    for line in results["findings"]:
        assert line.replace("'", "&#39;") in page
    assert any(line.startswith("The whole adapter in float32") for line in results["findings"])
    # All points, each method by size and their difference, under two headings.
    assert page.count("<tr>") == len(results["points"]) + 1 + len(METHODS) + 1 + 1
    assert "Least loss within a size" in page
    assert figure.startswith("<svg")
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_points_are_measured_again_only_if_their_options_change(folder: Path, run: Path) -> None:
    before = (folder / "points.jsonl").stat().st_mtime_ns
    result = airlora("curve", run, "--out", folder, *CURVE, "--json")
    assert result.returncode == 0, result.stderr
    assert (folder / "points.jsonl").stat().st_mtime_ns == before
    value = json.loads(result.stdout)
    assert value["byte_savings"].keys() == {row["series"] for row in value["points"]} - {"stream"}
    # Other QAT steps change the streams with QAT alone.
    points = (folder / "points.jsonl").read_text().splitlines()
    # Without --for there is no stream of a requested size to train anew.
    changed = [*CURVE[:3], 4, *CURVE[4:]]
    place = changed.index("--for")
    del changed[place : place + 2]
    result = airlora("curve", run, "--out", folder, *changed)
    assert result.returncode == 0, result.stderr
    again = (folder / "points.jsonl").read_text().splitlines()
    kept = [line for line in points if json.loads(line)["job"].split()[0] not in ("stream", "sized")]
    assert set(kept) <= set(again)
    assert set(again) != set(points)


def test_other_training_data_change_only_points_that_depend_on_them(
    run: Path, tmp_path: Path, tiny_data: tuple[Path, Path]
) -> None:
    own, train = tmp_path / "run", tmp_path / "train.tsv"
    shutil.copytree(run, own)
    header, *rows = tiny_data[0].read_text().splitlines()
    settings = own / "settings.toml"
    settings.write_text(settings.read_text().replace(str(tiny_data[0]), str(train)))
    keys = []
    for order in (rows, rows[::-1]):
        train.write_text("\n".join([header, *order]) + "\n")
        flags = ("--method", "unpolished", "--method", "singular", "--out", tmp_path / "out")
        assert airlora("curve", own, *flags).returncode == 0
        points = map(json.loads, (tmp_path / "out" / "points.jsonl").read_text().splitlines())
        keys.append({point["job"]: point["fingerprint"] for point in points})
    assert keys[0]["singular"] == keys[1]["singular"]
    assert keys[0]["unpolished"] != keys[1]["unpolished"]


def test_several_runs_give_means_with_confidence_intervals(
    run: Path, tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    other = tmp_path / "other"
    flags = tiny_flags(tiny_model, tiny_data)
    assert airlora("train", "--out", other, "--steps", 20, "--set", "seed=1", *flags).returncode == 0
    methods = ("--method", "unpolished", "--method", "full")
    result = airlora("curve", run, other, "--out", tmp_path / "curve", *methods, "--data", tiny_data[1], "--json")
    assert result.returncode == 0, result.stderr
    for row in json.loads(result.stdout)["points"]:
        assert row["num_runs"] == 2
        assert row["accuracy_interval"] >= 0.0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ranks", "1,two"), ("1,two", "1,2,4,8")),
        (("--ranks", "0"), ("ranks", "1 or more")),
        (("--ranks", ""), ("ranks", "1,2,4,8")),
        (("--method", "zip"), ("zip", "unpolished")),
        (("--qat-steps", "-1"), ("qat_steps = -1",)),
        (("--baseline-steps", "0"), ("baseline steps = 0",)),
        (("--size", "much"), ("much",)),
        (("--data", "nowhere.tsv"), ("nowhere.tsv",)),
        (("--set", "finetune.nothing=1"), ("finetune.nothing",)),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    run: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(airlora("curve", run, "--out", tmp_path / "curve", *flags), *words)
    assert not (tmp_path / "curve" / "points.jsonl").exists()


def test_unusable_runs_are_refused(run: Path, tmp_path: Path) -> None:
    refused(airlora("curve", tmp_path / "none", "--out", tmp_path / "c"), str(tmp_path / "none"))
    refused(airlora("curve", run, run, "--out", tmp_path / "c"), "runs", "each once")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "points.jsonl").write_text("{}\n")
    refused(airlora("curve", run, "--out", damaged), "points.jsonl", "line 1")


def test_fingerprints_use_the_names_of_earlier_versions() -> None:
    stored = {"bits": "auto", "max_distortion": 0.1, "max_bytes": None, "layers": 4, "polish_steps": 200}
    stored |= {"whole": False, "importance": None}
    assert _stored(Packing(qat_steps=200)) == stored
    names = {"integrated_gradient": "path", "balanced_gradient": "balanced", "ablation": "measured", "taylor": "taylor"}
    assert {name: _stored(Packing(importance=name))["importance"] for name in names} == names
