"""Settings of the SVD adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from airlora.settings.fields import Fraction, NonNegative, Positive, PositiveInt, Section

__all__ = ["AdapterSettings"]


class AdapterSettings(Section):
    """The SVD adapter (Eq. 2-3)."""

    r_max: PositiveInt = 8
    scale: Positive = Field(4.0, description="factor of every update; the same at every rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    orthogonality_weight: NonNegative = Field(0.0, description="weight of Eq. 3; 0 costs nothing")
    target_modules: list[str] | None = Field(None, description="endings of module names; none: the six projections")
    head_modules: list[str] | None = Field(None, description="endings of the trained head's names; none: found")
    ffn_update: Literal["weight", "residual"] = Field(
        "weight",
        description="of the FFN's projections: on the weight, or on the d_model side, with 2.5 times fewer numbers",
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    nested_probability: Fraction = Field(0.0, description="share of fine-tuning steps at random cuts of every module")
