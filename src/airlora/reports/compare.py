"""Comparison of policies: payload, airtime, accuracy and loss of each on the same links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from airlora.channel import Link, transfer_time_s
from airlora.env import RankAllocationEnv
from airlora.policy import RankPolicy
from airlora.policy.base import policy_name
from airlora.ranks import RankPattern, paper_num_params
from airlora.tasks import Evaluation, Metric, evaluate, pick_autocast
from airlora.training import RunContext, decide_for_link

__all__ = ["ComparisonRow", "compare_policies", "row_of"]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Result of one policy on one link.

    Args:
        policy: Name of the policy.
        snr_db: Mean SNR of the link, dB.
        bandwidth_hz: Bandwidth of the link, Hz.
        ranks: Rank by module name.
        num_params: Number of sent adapter parameters.
        paper_num_params: Number of sent adapter parameters by the paper's count.
        num_head_params: Number of parameters of the classification head, which are sent too.
        payload_bytes: Size of adapter and head at the channel's bits per parameter, bytes.
        seconds: Airtime, s.
        deadline_share: eta, airtime over the deadline.
        evaluation: Metrics of the task on the evaluation data.
    """

    policy: str
    snr_db: float
    bandwidth_hz: float
    ranks: Mapping[str, int]
    num_params: int
    paper_num_params: int
    num_head_params: int
    payload_bytes: int
    seconds: float
    deadline_share: float
    evaluation: Evaluation

    @property
    def metric(self) -> Metric:
        """Primary metric of the task."""
        return self.evaluation.primary

    @property
    def score(self) -> float:
        """Value of the primary metric."""
        return self.evaluation.score

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the metrics are keys like the others."""
        own = asdict(self)
        del own["evaluation"]
        return {**own, **self.evaluation.values, "num_samples": self.evaluation.num_samples}


def row_of(
    name: str,
    env: RankAllocationEnv,
    link: Link,
    pattern: RankPattern,
    evaluation: Evaluation,
    *,
    num_params: int | None = None,
) -> ComparisonRow:
    """Return the row of an evaluated rank pattern.

    Args:
        name: Name of the policy.
        env: Environment with the channel and the module shapes.
        link: Mean SNR and bandwidth of the link.
        pattern: Rank pattern that is sent.
        evaluation: Accuracy and loss of the pattern.
        num_params: Number of sent adapter parameters. None derives it from the pattern and the module shapes.
    """
    channel = env.channel
    num_params = pattern.num_params(env.shapes) if num_params is None else num_params
    num_head_params = env.objective.head_params
    seconds = transfer_time_s(
        num_params + num_head_params, capacity_bps=env.capacity_bps(link), bits_per_param=channel.bits_per_param
    )
    return ComparisonRow(
        policy=name,
        snr_db=link.snr_db,
        bandwidth_hz=link.bandwidth_hz,
        ranks=pattern.to_dict(),
        num_params=num_params,
        paper_num_params=paper_num_params(pattern.ranks, env.hidden_size),
        num_head_params=num_head_params,
        payload_bytes=int(np.ceil((num_params + num_head_params) * channel.bits_per_param / 8)),
        seconds=seconds,
        deadline_share=seconds / channel.deadline_s,
        evaluation=evaluation,
    )


def compare_policies(
    bench: RunContext,
    env: RankAllocationEnv,
    policies: Sequence[RankPolicy],
    links: Iterable[Link],
    *,
    precision: str = "auto",
    on_row: Callable[[ComparisonRow], None] = lambda row: None,
) -> list[ComparisonRow]:
    """Return one row per policy and link, all for the same adapter at different ranks.

    Args:
        bench: Model, adapter and evaluation data.
        env: Environment, whose channel gives rate, deadline and bits per parameter.
        policies: Policies that choose ranks.
        links: Links to decide for.
        precision: Precision of the evaluation, as `finetune.precision`.
        on_row: Function that is called with every new row.
    """
    text = bench.eval.complexity()
    autocast = pick_autocast(precision, bench.device)
    known: dict[RankPattern, Evaluation] = {}
    rows = []
    for link in links:
        for policy in policies:
            pattern = decide_for_link(policy, env, link, text)
            if pattern not in known:
                bench.adapted.set_ranks(pattern)
                with autocast():
                    known[pattern] = evaluate(bench.adapted.model, bench.eval, bench.device)
            rows.append(row_of(policy_name(policy), env, link, pattern, known[pattern]))
            on_row(rows[-1])
    return rows
