"""Policies side by side: what each sends over the same links, and how good the model is with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from airlora.channel import transfer_time_s
from airlora.env import Link, RankAllocationEnv
from airlora.policy import RankPolicy
from airlora.policy.base import policy_name
from airlora.ranks import RankPattern, paper_num_params
from airlora.tasks import Evaluation, evaluate, pick_autocast
from airlora.training import Workbench, decide_for_link

__all__ = ["ComparisonRow", "compare_policies", "row_of"]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One policy on one link.

    Args:
        policy: Its name.
        snr_db: Mean SNR, dB.
        bandwidth_hz: Bandwidth, Hz.
        ranks: Rank per module name.
        num_params: Adapter numbers, true count.
        paper_num_params: The paper's count of the same.
        num_head_params: Numbers of the head, which travel as well.
        payload_bytes: Adapter and head at the link's bits per number.
        seconds: To send them.
        deadline_share: eta, seconds over the deadline.
        accuracy: On the evaluation data, 0 to 1.
        loss: Nats per sample.
        num_samples: Evaluation samples.
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
    accuracy: float
    loss: float
    num_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def row_of(
    name: str,
    env: RankAllocationEnv,
    link: Link,
    pattern: RankPattern,
    evaluation: Evaluation,
    *,
    num_params: int | None = None,
) -> ComparisonRow:
    """Return the row of a pattern that was evaluated elsewhere; `num_params` if its components are of other sizes."""
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
        accuracy=evaluation.accuracy,
        loss=evaluation.loss,
        num_samples=evaluation.num_samples,
    )


def compare_policies(
    bench: Workbench,
    env: RankAllocationEnv,
    policies: Sequence[RankPolicy],
    links: Iterable[Link],
    *,
    precision: str = "auto",
    on_row: Callable[[ComparisonRow], None] = lambda row: None,
) -> list[ComparisonRow]:
    """Return one row per policy and link, all cuts of the workbench's one adapter.

    Args:
        bench: Model, adapter and evaluation data.
        env: The decision problem; its channel gives rate, deadline and bits.
        policies: What decides.
        links: Where.
        precision: Of the evaluation, as `finetune.precision`.
        on_row: Called with every row as it is measured.
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
