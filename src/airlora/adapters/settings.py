"""Settings of the SVD adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from airlora.settings.fields import Fraction, NonNegative, Positive, PositiveInt, Section

__all__ = ["AdapterForm", "AdapterSettings", "FfnUpdate"]

AdapterForm = Literal["free", "seeded"]
"""Form of the adapter: the numbers that are trained and sent.

| value | trained and sent |
|---|---|
| "free" | the components of every module |
| "seeded" | few coefficients that a seed spreads over the entries of all components |
"""

FfnUpdate = Literal["weight", "residual"]
"""Where the update of an FFN projection acts.

| value | the update acts on | shape |
|---|---|---|
| "weight" | the projection's weight | d_model x d_ffn |
| "residual" | the input of fc1, the output of fc2 (`SVDResidualLinear`) | d_model x d_model |
"""


class AdapterSettings(Section):
    """Settings of the SVD adapter (Eq. 2 and 3)."""

    r_max: PositiveInt = 8
    """Largest rank of a module: the number of components that are trained for it."""
    scale: Positive = 4.0
    """Factor s of every update, the same at every rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability on the inputs of the updates while training."""
    orthogonality_weight: NonNegative = 0.0
    """Weight of the orthogonality penalty (Eq. 3) in the training loss. 0 skips its computation."""
    target_modules: list[str] | None = None
    """Endings of the names of the modules to adapt. None adapts the six projections of each layer (Eq. 1)."""
    head_modules: list[str] | None = None
    """Endings of the names of the modules of the classification head. None finds the names that transformers uses."""
    ffn_update: FfnUpdate = "weight"
    """Where the update of an FFN projection acts: on its weight, or on the residual stream beside it. The second
    takes 2.5 times fewer parameters where the FFN is four times as wide as the model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the adapter's parameters."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass. Saves memory and costs time."""
    form: AdapterForm = "free"
    """Form of the adapter: the components, or few coefficients that a seed spreads over their entries."""
    num_coefficients: Annotated[
        tuple[PositiveInt, ...],
        Field(min_length=1),
        BeforeValidator(lambda given: (given,) if type(given) is int else given),
    ] = (10_000,)
    """Coefficients of the seeded form in each chunk. Every prefix of the chunks is a valid adapter."""
    basis_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed that spreads the coefficients of the seeded form. The stream contains it."""
    init_from: str | None = None
    """Adapter to continue from: the folder of a PEFT LoRA or AdaLoRA, the file of a stream, or a finished run. None
    begins with a zero update."""
    stream_bytes: PositiveInt | None = None
    """Size of the run's own stream, bytes. None writes no stream, and trains the seeded form without rounding."""
    nested_probability: Fraction = 0.0
    """Share of fine-tuning steps that train at random ranks instead of the requested ones."""
