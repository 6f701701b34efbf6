import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from airlora.codec import decode_stream
from airlora.ranks import RankPattern
from airlora.tasks import Classification, Evaluation
from airlora.training import AdaLoraResult
from commands import airlora, refused

KEYS = {
    "policy",
    "rank_pattern",
    "payload_bytes",
    "airtime_s",
    "deadline_share",
    "meets_deadline",
    "expected_loss",
    "others",
}


def plan(run: Path, *flags: object) -> dict[str, Any]:
    result = airlora("plan", run, *flags, "--json")
    assert result.returncode == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    assert value.keys() >= KEYS
    for row in (value, *value["others"]):
        assert row["meets_deadline"]
        assert row["payload_bytes"] <= value["budget_bytes"]
        assert row["airtime_s"] == pytest.approx(8 * row["payload_bytes"] / value["capacity_bps"])
        assert 0.0 < row["expected_loss"] < 2.0
    return value


def test_on_a_weak_link_the_stream_sends_more_components_than_policies(run: Path) -> None:
    value = plan(run, "--snr-db", 0, "--bandwidth-hz", 6e3, "--deadline-s", 2)
    # 6 kbit/s for 2 s.
    assert value["budget_bytes"] == 1500
    assert value["policy"] == "stream"
    by_name = {(row["policy"], row["bits"]): row for row in value["others"]}
    assert set(by_name) <= {("greedy", 32), ("constant", 32)}
    assert sum(value["rank_pattern"].values()) > max(
        [sum(row["rank_pattern"].values()) for row in by_name.values()], default=0
    )


def test_the_planned_stream_is_written(run: Path, tmp_path: Path) -> None:
    value = plan(run, "--snr-db", 5, "--bandwidth-hz", 1e4, "--out", tmp_path / "planned.airs")
    decoded = decode_stream((tmp_path / "planned.airs").read_bytes())
    assert decoded.bytes_used == value["payload_bytes"]
    assert decoded.rank_pattern.to_dict() == value["rank_pattern"]


def test_on_a_strong_link_all_components_arrive(run: Path, tiny_data: tuple[Path, Path]) -> None:
    value = plan(run, "--snr-db", 20, "--bandwidth-hz", 1e8, "--deadline-s", 1, "--data", tiny_data[1])
    assert value["deadline_share"] < 1e-3
    constant = next(row for row in value["others"] if row["policy"] == "constant")
    assert set(constant["rank_pattern"].values()) == {4}
    assert value["payload_bytes"] < constant["payload_bytes"] / 2
    assert str(tiny_data[1]) in value["measured_on"]


@pytest.mark.parametrize(
    ("flags", "name", "bits"),
    [
        (["--bits", "8"], "greedy", 8),
        (["--policy", "greedy"], "greedy", "auto"),
        (["--policy", "constant", "--bits", "16"], "constant", 16),
        (["--policy", "random", "--bits", "4"], "random", 4),
    ],
)
def test_any_policy_at_any_precision_keeps_the_deadline(run: Path, flags: list[str], name: str, bits: Any) -> None:
    value = plan(run, "--snr-db", 5, "--bandwidth-hz", 1e4, *flags)
    assert (value["policy"], value["bits"]) == (name, bits)
    assert next(row["policy"] for row in value["others"]) == "stream"


def test_the_table_fits_a_terminal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = airlora("plan", run, "--snr-db", 5, "--bandwidth-hz", 1e4, "--rate-model", "shannon")
    assert result.returncode == 0, result.stderr
    assert "…" not in result.stdout
    assert "stream" in result.stdout


def test_invalid_plans_are_refused(run: Path, tmp_path: Path) -> None:
    link = ["--snr-db", 0, "--bandwidth-hz", 1e4]
    refused(airlora("plan", run, "--snr-db", -20, "--bandwidth-hz", 100), "carries 0 bytes", "head")
    refused(airlora("plan", run, *link, "--policy", "magic"), "policy.name = 'magic'", "stream", "greedy")
    refused(airlora("plan", run, *link, "--bits", "5"), "bits = '5'")
    refused(airlora("plan", run, *link, "--deadline-s", 0), "deadline_s = 0")
    refused(airlora("plan", run, *link, "--deadline-s", "nan"), "deadline_s = nan")
    refused(airlora("plan", run, *link, "--deadline-s", "1e308"), "deadline_s = 1e+308")
    refused(airlora("plan", run, *link, "--deadline-s", "inf"), "deadline_s = inf")
    refused(airlora("plan", run, *link, "--rate-model", "guess"), "guess", "shannon")
    refused(airlora("plan", run, "--snr-db", "nan", "--bandwidth-hz", 1e4), "nan")
    refused(airlora("plan", run, "--snr-db", 0, "--bandwidth-hz", -3), "-3")
    refused(airlora("plan", run, *link, "--data", tmp_path / "none.tsv"), "none.tsv")
    refused(airlora("plan", tmp_path, *link), "run.json")


def test_file_names_are_printed_and_drawn_without_markup(
    run: Path, tmp_path: Path, tiny_data: tuple[Path, Path]
) -> None:
    data, picture = tmp_path / "a[" / "b]$\\frac$:bomb:.tsv", tmp_path / "plan.svg"
    data.parent.mkdir()
    shutil.copy(tiny_data[1], data)
    flags = ("--snr-db", 5, "--bandwidth-hz", 1e4, "--deadline-s", 0.5)
    result = airlora("plan", run, *flags, "--data", data, "--picture", picture)
    assert result.returncode == 0, result.stderr
    name = "a[/b]$\\frac$:bomb:.tsv"
    assert name in result.stdout.replace("\n", "")
    words = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314
    assert name in "".join("".join(word.itertext()) for word in words)


def test_an_adalora_without_components_is_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keeps_nothing(settings: Any, train: Any, held_out: Any, **_: Any) -> AdaLoraResult:
        return AdaLoraResult(
            RankPattern({"a": 0}), 0, Evaluation({"accuracy": 0.5, "loss": 0.7}, 9, Classification.metrics[0])
        )

    monkeypatch.setattr("airlora.workflows.plan.train_adalora", keeps_nothing)
    value = plan(run, "--snr-db", 5, "--bandwidth-hz", 1e4, "--adalora")
    assert "adalora" not in {row["policy"] for row in value["others"]}


def test_adalora_is_compared_and_all_payloads_are_drawn(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    flags = ("--snr-db", 5, "--bandwidth-hz", 1e4, "--adalora", "--picture", picture)
    value = plan(run, *flags)
    (row,) = (row for row in value["others"] if row["policy"] == "adalora")
    assert sum(row["rank_pattern"].values()) > 0
    assert row["bits"] == 32
    text = picture.read_text()
    assert text.startswith("<svg")
    for name in ("stream", "greedy, 32 bit", "adalora, 32 bit", "budget of the link"):
        assert name in text
