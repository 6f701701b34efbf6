import io
import re

import pytest

from airlora.reports.compare import ComparisonRow
from airlora.reports.figures import rank_heat_maps, reward_curve, score_by_params, score_by_snr
from airlora.reports.run_report import findings, score_interval
from airlora.reports.tables import comparison_table, rank_table
from airlora.tasks import Classification, Evaluation

METRIC = Classification.metrics[0]

MODULES = {
    f"layer.{layer}.{role}": {"d_in": 4, "d_out": 4, "role": role, "layer": layer}
    for layer in range(2)
    for role in ("q", "k", "v", "o", "fc1", "fc2")
}


def row(policy: str, snr_db: float, accuracy: float, num_params: int = 900, share: float = 0.5) -> ComparisonRow:
    return ComparisonRow(
        policy=policy,
        snr_db=snr_db,
        bandwidth_hz=5e5,
        ranks=dict.fromkeys(MODULES, 2),
        num_params=num_params,
        paper_num_params=num_params,
        num_head_params=10,
        payload_bytes=4 * num_params,
        seconds=share,
        deadline_share=share,
        evaluation=Evaluation({"accuracy": accuracy, "loss": 0.5}, 1000, METRIC),
    )


def rows(**accuracy: float) -> list[ComparisonRow]:
    return [row(policy, snr_db, value) for policy, value in accuracy.items() for snr_db in (-5.0, 5.0)]


def test_findings_state_when_a_simple_policy_beats_the_papers() -> None:
    lines = " ".join(findings(rows(airllm=0.80, greedy=0.90, adalora=0.70, random=0.60)))
    assert "Best on average: greedy, 90.0%" in lines
    assert "is second of 4: 80.0%, 10.0 points behind greedy, beyond the confidence interval" in lines
    assert "Policies without learning that are better here: greedy." in lines
    assert "AdaLoRA, trained separately for every link's budget, reaches 70.0%: 20.0 points below greedy" in lines


def test_findings_are_one_sentence_when_the_papers_policy_wins() -> None:
    lines = findings(rows(airllm=0.90, greedy=0.80))
    assert lines == ["Best on average: airllm, 90.0% with 900 adapter parameters per link."]


def test_a_small_difference_is_within_the_interval() -> None:
    assert "within the confidence interval" in " ".join(findings(rows(airllm=0.899, greedy=0.90)))


def test_the_interval_is_the_binomial_one() -> None:
    assert score_interval(rows(airllm=0.9)) == pytest.approx(1.96 * (0.9 * 0.1 / 1000) ** 0.5)


def test_figures_are_self_contained_and_reproducible() -> None:
    data = rows(airllm=0.8, greedy=0.9)
    metrics = [{"kind": "learn", "step": step, "reward": -1.0 / step} for step in range(1, 50)]
    pictures = [
        score_by_snr(data),
        score_by_params(data),
        reward_curve(metrics, METRIC),
        rank_heat_maps({"airllm": dict.fromkeys(MODULES, 3)}, MODULES, 8),
    ]
    for picture in pictures:
        assert picture.startswith("<svg")
        assert not re.search(r"(href|src)=\"http", picture)
    assert score_by_snr(data) == pictures[0]


def test_a_run_without_rewards_has_a_figure() -> None:
    assert reward_curve([{"kind": "eval", "step": 1, "accuracy": 0.5}], METRIC).startswith("<svg")


def test_heat_maps_allow_gated_layers_and_missing_modules() -> None:
    gated = {"l.0.gate_proj": {"role": "fc1", "layer": 0}, "l.0.up_proj": {"role": "fc1", "layer": 0}}
    gated["l.1.up_proj"] = {"role": "fc1", "layer": 1}
    picture = rank_heat_maps({"x": {"l.0.gate_proj": 1, "l.0.up_proj": 2, "l.1.up_proj": 0}}, gated, 4)
    assert ">gate<" in picture


def test_tables_show_every_policy_and_mark_broken_deadlines() -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(comparison_table([row("airllm", 5.0, 0.8), row("price", 5.0, 0.7, share=1.4)]))
    console.print(rank_table({"modules": MODULES, "rank_pattern": dict.fromkeys(MODULES, 7)}))
    text = console.export_text()
    assert re.search(r"airllm.*80\.0%.*kept", text)
    assert re.search(r"price.*broken", text)
    assert text.count(" 7 ") == 12
