"""Compare the planner's greedy filling with exchanges to the exact integer programme (HiGHS), on one core.

    $ python benchmarks/planner.py --problem separable-144

Both plan with the true gains of a synthetic problem, for every link and one text.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np

from airlora.allocation import fill_exactly
from airlora.bench.problems import PROBLEMS
from airlora.bench.regret import RegretEvaluator
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.policy import UtilityModel, plan_ranks

SEPARABLE = tuple(key for key, problem in PROBLEMS.items() if not problem.interacting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=SEPARABLE, default="separable-36")
    parser.add_argument("--seed", type=int, default=10, help="seed of the landscape")
    arguments = parser.parse_args()
    env = PROBLEMS[arguments.problem].make(arguments.seed)
    objective = env.objective
    assert isinstance(objective, SyntheticObjective)
    evaluator, costs, ranks = RegretEvaluator(env), env.params_per_rank, np.arange(objective.r_max + 1)
    flat = UtilityModel.flat(tuple(costs.tolist()), objective.r_max)
    none = np.zeros(len(costs), dtype=np.int64)
    text = objective.texts[0]
    # Modules do not interact: the gain of a module does not depend on the ranks of others.
    curves = np.empty((len(costs), len(ranks)))
    for module in range(len(costs)):
        for rank in ranks:
            alone = none.copy()
            alone[module] = rank
            curves[module, rank] = objective.loss(none, text) - objective.loss(alone, text)
    model = replace(flat, curves=curves)
    seconds: dict[str, list[float]] = {"planner": [], "exact": []}
    gaps = []
    for context, observation in zip(evaluator.contexts, evaluator.observations, strict=True):
        if context.text != text:
            continue
        start = time.perf_counter()
        plan = plan_ranks(model, costs, observation.budget_params, np.zeros(2))
        middle = time.perf_counter()
        exact = fill_exactly(np.minimum.accumulate(np.diff(curves), axis=1), costs, observation.budget_params)
        seconds["planner"].append(middle - start)
        seconds["exact"].append(time.perf_counter() - middle)
        gain, best = (float(curves[np.arange(len(costs)), chosen].sum()) for chosen in (plan, exact))
        gaps.append((best - gain) / best)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{PROBLEMS[arguments.problem].title}, landscape {arguments.seed}, {len(gaps)} links, one text")
    print(f"gain that the plan misses: mean {statistics.fmean(gaps):.4%}, most {max(gaps):.4%}")
    print(f"time of a plan, median: exact / planner = {times['exact'] / times['planner']:.0f}")


if __name__ == "__main__":
    main()
