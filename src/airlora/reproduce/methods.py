"""The methods that the tables compare: those of the paper, and simple ones beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["AIRLLM", "METHODS", "PAPER_METHODS", "Method"]

AIRLLM = "PPO+DDIM/MLP"
"""Name of the paper's method."""


@dataclass(frozen=True)
class Method:
    """One method of the tables.

    Args:
        name: Name in tables and figures.
        policy: Name of the policy, or None for a method without one.
        baseline: PEFT method that is trained instead of a policy, or None.
        colour: Colour in figures, of the palette of Okabe and Ito.
        marker: Marker in figures.
        line: Line style in figures.
        cost: Expected duration of a decision relative to that of `AIRLLM`.
        overrides: Settings of the method, by dotted key.
        budget: Parameters of a PEFT method: `policy` for those that PPO+DDIM/MLP sends with the same seed over the same
            link, `r_max` for all of rank r_max. Empty for other methods.
    """

    name: str
    policy: str | None = None
    baseline: str | None = None
    colour: str = "#000000"
    marker: str = "o"
    line: str = "-"
    cost: float = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    budget: Literal["", "policy", "r_max"] = ""


_PAPER = (
    Method("PPO", "ppo", colour="#E69F00", marker="^", line="--"),
    Method("DDIM", "ddim", colour="#CC79A7", marker="X", line="-."),
    Method("PPO+DDPM", "airllm-ddpm", colour="#009E73", marker="D", line=":", cost=8.0),
    Method(AIRLLM, "airllm", colour="#D55E00", marker="o", line="-"),
    Method("PPO+DDIM/U-Net", "airllm-unet", colour="#882255", marker="v", line="--", cost=8.0),
    Method("AdaLoRA", baseline="adalora", budget="policy", colour="#0072B2", marker="s", line="-"),
)

_BEYOND = (
    Method("AdaLoRA, r_max", baseline="adalora", budget="r_max", colour="#6699CC", marker="p", line=":"),
    Method("random", "random", colour="#999999", marker="x", line=":"),
    Method("best constant", "constant", colour="#000000", marker="P", line="-."),
    Method("greedy", "greedy", colour="#56B4E9", marker="d", line="--"),
    Method("allocate", "allocate", colour="#332288", marker="*", line="-"),
    Method("LoRA", baseline="lora", budget="policy", colour="#44AA99", marker="<", line="--"),
    Method("rsLoRA", baseline="rslora", budget="policy", colour="#117733", marker=">", line=":"),
    Method("stream", colour="#AA4499", marker="h", line="-"),
)

METHODS: Mapping[str, Method] = {method.name: method for method in (*_PAPER, *_BEYOND)}
"""All methods by name."""

PAPER_METHODS = tuple(method.name for method in _PAPER)
"""Names of the methods of Table III, in its order."""
