"""airlora decides which low-rank adapter components to send over a weak link, and learns that decision.

The names below are the public API; each is loaded when it is first used, so that `import airlora` stays quick.
Importing airlora registers the Gymnasium environment `airlora/RankAllocation-v0`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from airlora.version import __version__

if TYPE_CHECKING:
    from airlora.adapters import (
        AdaptedModel,
        SVDLinear,
        base_fingerprint,
        canonicalise,
        find_projections,
        inject,
        load_adapter,
        load_base_model,
        save_adapter,
    )
    from airlora.channel import (
        FadingModel,
        LinkProcess,
        budget_params,
        capacity_bps,
        communication_cost,
        project_ranks,
        transfer_time_s,
    )
    from airlora.config import Settings, load_settings, save_settings
    from airlora.env import AnalyticObjective, FrozenObjective, Link, LiveObjective, Objective, RankAllocationEnv
    from airlora.errors import AirloraError
    from airlora.experiments import compare_policies, evaluate_run, inspect_run, run_demo
    from airlora.observation import Observation, ObservationSpec
    from airlora.policy import Learner, PolicyProblem, RankPolicy, load_policy, make_policy, save_policy
    from airlora.ranks import ModuleShape, RankPattern
    from airlora.text import TextDataset, embedded_corpus, lexical_entropy_nats, load_dataset, oov_rate
    from airlora.training import OpenRun, RunFolder, decide_for_link, open_run, train

_HOMES = {
    "adapters": (
        "AdaptedModel",
        "SVDLinear",
        "base_fingerprint",
        "canonicalise",
        "find_projections",
        "inject",
        "load_adapter",
        "load_base_model",
        "save_adapter",
    ),
    "channel": (
        "FadingModel",
        "LinkProcess",
        "budget_params",
        "capacity_bps",
        "communication_cost",
        "project_ranks",
        "transfer_time_s",
    ),
    "config": ("Settings", "load_settings", "save_settings"),
    "env": ("AnalyticObjective", "FrozenObjective", "Link", "LiveObjective", "Objective", "RankAllocationEnv"),
    "errors": ("AirloraError",),
    "experiments": ("compare_policies", "evaluate_run", "inspect_run", "run_demo"),
    "observation": ("Observation", "ObservationSpec"),
    "policy": ("Learner", "PolicyProblem", "RankPolicy", "load_policy", "make_policy", "save_policy"),
    "ranks": ("ModuleShape", "RankPattern"),
    "text": ("TextDataset", "embedded_corpus", "lexical_entropy_nats", "load_dataset", "oov_rate"),
    "training": ("OpenRun", "RunFolder", "decide_for_link", "open_run", "train"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptedModel",
    "AirloraError",
    "AnalyticObjective",
    "FadingModel",
    "FrozenObjective",
    "Learner",
    "Link",
    "LinkProcess",
    "LiveObjective",
    "ModuleShape",
    "Objective",
    "Observation",
    "ObservationSpec",
    "OpenRun",
    "PolicyProblem",
    "RankAllocationEnv",
    "RankPattern",
    "RankPolicy",
    "RunFolder",
    "SVDLinear",
    "Settings",
    "TextDataset",
    "__version__",
    "base_fingerprint",
    "budget_params",
    "canonicalise",
    "capacity_bps",
    "communication_cost",
    "compare_policies",
    "decide_for_link",
    "embedded_corpus",
    "evaluate_run",
    "find_projections",
    "inject",
    "inspect_run",
    "lexical_entropy_nats",
    "load_adapter",
    "load_base_model",
    "load_dataset",
    "load_policy",
    "load_settings",
    "make_policy",
    "oov_rate",
    "open_run",
    "project_ranks",
    "run_demo",
    "save_adapter",
    "save_policy",
    "save_settings",
    "train",
    "transfer_time_s",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'airlora' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"airlora.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


# The environment's class is named, not imported: making one is what loads it.
gymnasium.register(id="airlora/RankAllocation-v0", entry_point="airlora.env:RankAllocationEnv")
