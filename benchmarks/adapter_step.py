"""Time of a fine-tuning step with airlora's adapter and with PEFT's AdaLoRA, relative to PEFT's LoRA.

    python benchmarks/adapter_step.py [--r-max 16] [--rank 4] [--rounds 30]

Each round runs one step of every method on the same batch, in random order. The result is the median over rounds of
the ratio to PEFT's LoRA at `rank`. airlora and AdaLoRA hold r_max components, of which `rank` are active.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model

from airlora.adapters import EMBEDDED_MODEL, find_projections, inject, load_base_model

BATCH, LENGTH = 32, 24


def step_of(
    model: torch.nn.Module, after: Callable[[], object] = lambda: None
) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return a function that runs one AdamW step on a batch and then calls `after`."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        optimizer.step()
        after()

    return step


def main() -> None:
    """Print the median ratio of each method as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--r-max", type=int, default=16)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def base() -> torch.nn.Module:
        return load_base_model(EMBEDDED_MODEL, num_labels=2, seed=0, attn_implementation="eager")[0]

    targets = [site.name for site in find_projections(base())]
    adapted = inject(base(), r_max=options.r_max, seed=0)
    adapted.set_ranks([options.rank] * len(adapted.shapes))
    lora = get_peft_model(base(), LoraConfig(r=options.rank, target_modules=targets))
    counter = iter(range(1, 10**6))
    adalora = get_peft_model(
        base(),
        AdaLoraConfig(
            init_r=options.r_max, target_r=options.rank, tinit=0, tfinal=1, total_step=10**6, target_modules=targets
        ),
    )
    methods = {
        "peft_lora": step_of(lora),
        "airlora": step_of(adapted.model),
        "peft_adalora": step_of(adalora, lambda: adalora.base_model.update_and_allocate(next(counter))),
    }
    generator = torch.Generator().manual_seed(0)
    ratios: dict[str, list[float]] = {name: [] for name in methods}
    for round_index in range(options.rounds + 3):
        batch = {
            "input_ids": torch.randint(1000, 20_000, (BATCH, LENGTH), generator=generator),
            "labels": torch.randint(0, 2, (BATCH,), generator=generator),
        }
        seconds = {}
        for name in random.sample(list(methods), len(methods)):
            start = time.perf_counter()
            methods[name](batch)
            seconds[name] = time.perf_counter() - start
        if round_index >= 3:
            for name in methods:
                ratios[name].append(seconds[name] / seconds["peft_lora"])
    medians = {name: round(statistics.median(values), 3) for name, values in ratios.items()}
    print(json.dumps({"r_max": options.r_max, "rank": options.rank, "rounds": options.rounds} | medians))


if __name__ == "__main__":
    main()
