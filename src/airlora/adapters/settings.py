"""Settings of the SVD adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from airlora.settings.fields import Fraction, NonNegative, Positive, PositiveInt, Section

__all__ = ["AdapterSettings", "FfnUpdate"]

FfnUpdate = Literal["weight", "residual"]
"""Where the update of an FFN projection acts.

| value | the update acts on | shape |
|---|---|---|
| "weight" | the projection's weight | d_model x d_ffn |
| "residual" | the input of fc1, the output of fc2 (`SVDResidualLinear`) | d_model x d_model |
"""


class AdapterSettings(Section):
    """Settings of the SVD adapter (Eq. 2-3)."""

    r_max: PositiveInt = Field(8, description="components per adapted module, the largest rank")
    scale: Positive = Field(4.0, description="scale s of every update (Eq. 2), independent of the rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="dropout probability on the inputs of the updates during training"
    )
    orthogonality_weight: NonNegative = Field(
        0.0, description="weight of the orthogonality penalty (Eq. 3) in the loss; at 0 it is not computed"
    )
    target_modules: list[str] | None = Field(
        None,
        description="endings of the names of the adapted modules; none: the projections of the known model families",
    )
    head_modules: list[str] | None = Field(
        None, description="endings of the names of the head's modules; none: the usual names of classification heads"
    )
    ffn_update: FfnUpdate = Field(
        "weight",
        description="where the updates of FFN projections act: `weight`, or `residual` (the d_model side), with about "
        "2.5 times fewer parameters",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="data type of the updates")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time, the same gradients"
    )
    nested_probability: Fraction = Field(
        0.0, description="share of fine-tuning steps at a random rank of every module (nested training)"
    )
