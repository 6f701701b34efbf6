"""The planner's greedy filling with exchanges beside the exact integer programme (HiGHS), on one core.

    $ python benchmarks/planner.py --problem separable-144

Both plan by the true worths of a synthetic problem, for every link and one text; times are compared in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np

from airlora.bench.problems import PROBLEMS
from airlora.bench.regret import Judge
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.policy import UtilityModel, fill_exactly, plan_ranks

SEPARABLE = tuple(key for key, problem in PROBLEMS.items() if not problem.interacting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=SEPARABLE, default="separable-36")
    parser.add_argument("--seed", type=int, default=10, help="of the landscape")
    arguments = parser.parse_args()
    env = PROBLEMS[arguments.problem].make(arguments.seed)
    objective = env.objective
    assert isinstance(objective, SyntheticObjective)
    judge, costs, ranks = Judge(env), env.params_per_rank, np.arange(objective.r_max + 1)
    flat = UtilityModel.flat(tuple(costs.tolist()), objective.r_max)
    none = np.zeros(len(costs), dtype=np.int64)
    text = objective.texts[0]
    # What one module is worth alone is what it is worth beside others: nothing interacts.
    curves = np.empty((len(costs), len(ranks)))
    for module in range(len(costs)):
        for rank in ranks:
            alone = none.copy()
            alone[module] = rank
            curves[module, rank] = objective.loss(none, text) - objective.loss(alone, text)
    model = replace(flat, curves=curves)
    seconds: dict[str, list[float]] = {"planner": [], "exact": []}
    gaps = []
    for context, observation in zip(judge.contexts, judge.observations, strict=True):
        if context.text != text:
            continue
        start = time.perf_counter()
        plan = plan_ranks(model, costs, observation.budget_params, np.zeros(2))
        middle = time.perf_counter()
        exact = fill_exactly(np.minimum.accumulate(np.diff(curves), axis=1), costs, observation.budget_params)
        seconds["planner"].append(middle - start)
        seconds["exact"].append(time.perf_counter() - middle)
        worth, best = (float(curves[np.arange(len(costs)), chosen].sum()) for chosen in (plan, exact))
        gaps.append((best - worth) / best)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{PROBLEMS[arguments.problem].title}, landscape {arguments.seed}, {len(gaps)} links, one text")
    print(f"worth that the plan leaves: mean {statistics.fmean(gaps):.4%}, most {max(gaps):.4%}")
    print(f"time of a plan, median: exact / planner = {times['exact'] / times['planner']:.0f}")


if __name__ == "__main__":
    main()
