"""A sweep: the paper's method with one setting varied. Tables V and Figures 5 to 8 are sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airlora.reproduce.experiment import Arm, Claim, Results, judge, running_mean
from airlora.reproduce.figures import DrawnFigure, Series, paired_line_figure
from airlora.reproduce.methods import AIRLLM
from airlora.reproduce.plan import Plan
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.tables import Column, ResultTable, summarise
from airlora.reproduce.trial import Trial

__all__ = ["Sweep"]

_COLUMNS = (
    Column("setting", "setting"),
    Column("accuracy", "accuracy", "%"),
    Column("loss", "loss", "number", 4, "nats"),
    Column("objective", "U + λη", "number", 4),
    Column("num_params", "parameters", "count"),
    Column("cost", "η", "number", 3),
)


@dataclass(frozen=True)
class Sweep:
    """The paper's method with one setting varied.

    Args:
        settings: Changed settings by dotted key, by the label of the setting.
        paper: Accuracy of the paper by label.
        claims: Claims as (sentence, label that is better, label that is worse).
    """

    settings: Mapping[str, Mapping[str, Any]]
    paper: Mapping[str, float]
    claims: Sequence[tuple[str, str, str]] = ()

    def arm(self, label: str) -> Arm:
        """Return the arm of a label."""
        return Arm(AIRLLM, self.settings[label])

    def trials(self, plan: Plan) -> Sequence[Trial]:
        """Return the trials of all settings and seeds."""
        return [plan.trial(AIRLLM, seed, changes) for changes in self.settings.values() for seed in plan.seeds]

    def table(self, results: Results, name: str, title: str, notes: Sequence[str] = ()) -> ExperimentResult:
        """Return the table of accuracy, loss and cost by setting, with verdicts on the claims."""
        rows = results.rows({label: [self.arm(label)] for label in self.settings})
        paper = {(label,): {"accuracy": value} for label, value in self.paper.items()}
        columns, lines = summarise(rows, _COLUMNS, by=("setting",), paper=paper)
        claims = [
            Claim(text, self.arm(better), self.arm(worse), self._difference(better, worse))
            for text, better, worse in self.claims
        ]
        table = ResultTable(name, title, columns, lines, notes)
        return ExperimentResult(name, title, rows, judge(results, claims) if claims else [], table=table)

    def reward_figure(self, results: Results, base: str) -> tuple[DrawnFigure, list[dict[str, Any]]]:
        """Return the reward against the steps with a line per setting, and its raw rows.

        Args:
            results: Results of the trials.
            base: Label of the setting that the others are compared with, seed by seed.
        """
        series, rows = [], []
        for label in self.settings:
            steps, rewards = results.rewards(self.arm(label))
            series.append(Series(label, *running_mean(steps, rewards)))
            rows += [
                {"method": AIRLLM, "setting": label, "seed": seed, "step": step, "reward": float(reward)}
                for seed, curve in zip(results.plan.seeds, rewards, strict=True)
                for step, reward in zip(steps, curve, strict=True)
            ]
        return paired_line_figure(series, base=base, xlabel="step", ylabel="reward"), rows

    def _difference(self, better: str, worse: str) -> float | None:
        if better not in self.paper or worse not in self.paper:
            return None
        return self.paper[better] - self.paper[worse]
