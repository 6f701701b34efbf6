"""What a device has at its deadline, on a thousand links of measured rates, in virtual time.

python benchmarks/delivery_over_traces.py --trace norway3g/train.csv --stream adapter.airs --cuts cuts.json
python benchmarks/delivery_over_traces.py --trace 5gophers/throughput.csv --scale 0.01 --deadline-s 1

A trace is a CSV with a column `mbps` or `throughput_mbps` and perhaps `time_s` (else a row a second); a visit begins
at a random place of it.  Every device runs an older release first.  `--scale` makes rates those of a weaker link.
Without `--stream` the stream is of random numbers.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.progress import track

from airlora.codec import describe
from airlora.delivery import (
    AgentPlan,
    KeyFolder,
    LinkLimits,
    PrefixScore,
    StateFolder,
    create_repository,
    publish_stream,
    visit,
)
from airlora.testing.simulated import SimulatedLink, VirtualTime
from random_streams import random_stream


def rates_of(path: Path, scale: float) -> tuple[list[float], list[float]]:
    """Return times, s, and rates from then on, bit/s."""
    times: list[float] = []
    rates: list[float] = []
    offset, last = 0.0, ("", 0.0)
    with path.open() as file:
        for row in csv.DictReader(file):
            text = row.get("mbps") or row.get("throughput_mbps")
            if not text:
                continue
            time_s = float(row["time_s"]) if "time_s" in row else len(times)
            if row.get("trace", "") != last[0] and times:
                offset = times[-1] + 1.0
            last = (row.get("trace", ""), time_s)
            times.append(offset + time_s)
            rates.append(1e6 * scale * float(text))
    if not times:
        raise SystemExit(f"{path}: no rates (columns mbps or throughput_mbps)")
    return times, rates


def rate_at(times: list[float], rates: list[float]) -> Callable[[float], float]:
    end = times[-1] + 1.0
    return lambda now: rates[max(0, bisect_right(times, now % end) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--stream", type=Path, help="file of a stream; none: one of random numbers")
    parser.add_argument("--cuts", type=Path, help="JSON list of what prefixes are worth, as in a manifest")
    parser.add_argument("--links", type=int, default=1000)
    parser.add_argument("--deadline-s", type=float, default=2.0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--delay-s", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    times, rates = rates_of(arguments.trace, arguments.scale)
    at_bps = rate_at(times, rates)
    generator = np.random.default_rng(arguments.seed)
    stream = arguments.stream.read_bytes() if arguments.stream else random_stream(60_000)
    cuts = [PrefixScore(**cut) for cut in json.loads(arguments.cuts.read_text())] if arguments.cuts else []
    fingerprint = describe(stream)["base_fingerprint"]
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        repository = create_repository(folder / "repo", KeyFolder(folder / "keys", folder / "repo"))
        old = cuts[0].model_copy(update={"num_bytes": 1, "accuracy": 0.0, "loss": 9.0}) if cuts else None
        publish_stream(repository, random_stream(60_000, seed=1, fingerprint=fingerprint), cuts=[old] if old else [])
        root = (repository.metadata / "1.root.json").read_bytes()
        before = folder / "before"
        plan = AgentPlan("http://repository", root=root)
        first = visit(StateFolder(before), plan, SimulatedLink(repository.folder, lambda _: 1e9), seed=0)
        if first.error is not None:
            raise first.error
        publish_stream(repository, stream, cuts=cuts)
        for number in track(range(arguments.links), disable=arguments.json):
            state = copy_state(before, folder / "device")
            link = SimulatedLink(
                repository.folder,
                at_bps,
                time=VirtualTime(generator.uniform(0.0, times[-1])),
                deadline_s=arguments.deadline_s,
                delay_s=arguments.delay_s,
                overhead_bytes=250,
                limits=LinkLimits(stall_timeout_s=max(1.0, arguments.deadline_s)),
            )
            result = visit(state, plan, link, seed=number)
            found.append(
                {
                    "version": result.version,
                    "seconds": result.seconds,
                    "complete": result.complete and result.version == 2,
                    "num_bytes": 0 if result.version != 2 else result.bytes_fetched,
                    "accuracy": result.accuracy if result.version == 2 else None,
                    "error": None if result.error is None else str(result.error),
                }
            )
    print_summary(found, arguments.deadline_s, len(stream), as_json=arguments.json)


def copy_state(source: Path, target: Path) -> StateFolder:
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return StateFolder(target)


def print_summary(found: list[dict], deadline_s: float, num_bytes: int, *, as_json: bool) -> None:
    total = len(found)
    slack_s = 0.1
    summary = {
        "links": total,
        "stream_bytes": num_bytes,
        "deadline_s": deadline_s,
        "done_by_deadline": sum(row["seconds"] <= deadline_s + slack_s for row in found) / total,
        "runs_verified_adapter": sum(row["version"] in (1, 2) for row in found) / total,
        "runs_whole_new": sum(row["complete"] for row in found) / total,
        "runs_part_of_new": sum(row["version"] == 2 and not row["complete"] for row in found) / total,
        "longest_s": max(row["seconds"] for row in found),
        "new_bytes_quantiles": np.quantile([row["num_bytes"] for row in found], [0.01, 0.1, 0.5, 0.9]).tolist(),
    }
    known = [row["accuracy"] for row in found if row["accuracy"] is not None]
    if known:
        summary["accuracy_quantiles"] = np.quantile(known, [0.01, 0.1, 0.5, 0.9]).tolist()
    if as_json:
        print(json.dumps(summary))
        return
    for key, value in summary.items():
        print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
