"""Settings of the policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from airlora.errors import SettingsError
from airlora.policy.specs import find_policy, is_class_path, policy_specs
from airlora.settings.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section

__all__ = ["AllocateSettings", "CmaSettings", "DiffusionSettings", "PPOSettings", "PolicySettings"]


class PPOSettings(Section):
    """The coarse policy (Eq. 11-12)."""

    hidden_size: PositiveInt = 256
    learning_rate: Positive = 3e-4
    gamma: Fraction = 0.0
    gae_lambda: Fraction = 0.95
    clip_coef: Positive = 0.2
    vf_coef: NonNegative = 0.5
    ent_coef: NonNegative = 0.0
    update_epochs: PositiveInt = 10
    minibatch_size: PositiveInt = 32
    max_grad_norm: Positive = 0.5
    initial_std: Positive = Field(0.3, description="of the Gaussian head, in units of half the rank range")
    initial_rank_fraction: Fraction = Field(0.25, description="mean rank at the start, as a share of r_max")
    latent_size: PositiveInt | None = Field(None, description="length of a_out; none: one per module")


class DiffusionSettings(Section):
    """The fine policy (Eq. 13-19)."""

    backbone: str = "residual_mlp"
    hidden_size: PositiveInt = 256
    num_blocks: PositiveInt = 2
    time_embedding_size: PositiveInt = 64
    unet_depth: PositiveInt = Field(6, description="resolutions of backbone `unet`; fewer where the modules run out")
    unet_kernel_size: PositiveInt = Field(3, description="odd")
    unet_channels: Annotated[int, Field(ge=8, multiple_of=8)] = Field(32, description="at every resolution")
    num_train_timesteps: PositiveInt = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 2e-2
    prediction_type: str = "epsilon"
    sampler: str = "ddim"
    num_inference_steps: PositiveInt = 50
    eta: Fraction = Field(0.0, description="noise of sampler `ddim`; 1: as much as `ddpm`")
    timestep_spacing: Literal["leading", "linspace", "trailing"] = Field(
        "linspace", description="which of the trained steps a short sampler visits"
    )
    clip_sample: bool = Field(True, description="keep every estimate of x_0 within [-1, 1], where ranks live")
    guidance_scale: NonNegative = Field(1.0, description="w of classifier-free guidance; 1: condition alone, 0: none")
    condition_dropout: Fraction = 0.1
    condition: Literal["a_out", "state", "a_out_and_state", "budget_and_text"] = Field(
        "a_out", description="what the sampler is told; policy `ddim` takes `a_out` for `state`"
    )
    loss: str = "advantage_weighted"
    kappa: NonNegative = Field(0.1, description="weight of the reward in Eq. 19")
    critic: Literal["learned", "utility"] = Field("learned", description="whose gradient the loss `q_guided` follows")
    critic_weight: NonNegative = Field(1.0, description="of the critic's term beside the denoising error")
    critic_learning_rate: Positive = 1e-3
    critic_updates: PositiveInt = Field(64, description="steps of the learned critic in every stage")
    num_plans: PositiveInt = Field(256, description="links and texts that the loss `expert` plans for")
    plan_exploration: Fraction = Field(
        0.5, description="share of the utility model's patterns while `expert` learns, in policies of diffusion alone"
    )
    min_std: Positive = Field(0.1, description="least noise of a denoising step, loss `policy_gradient`")
    fill: bool = Field(
        False,
        description="give what a decision leaves of the budget to the components worth most, where deadlines are kept",
    )
    num_decision_samples: PositiveInt = Field(8, description="samples whose mean is a decision")
    warmup_updates: NonNegativeInt = Field(500, description="steps of imitation before the first decision")
    rehearsal_weight: NonNegative = Field(1.0, description="of the warm-up's pairs in every later step, `airllm`")
    temperature: Positive = Field(0.3, description="of advantage weights, in standard deviations of the advantage")
    learning_rate: Positive = 1e-4
    batch_size: PositiveInt = 64
    updates_per_stage: PositiveInt = 32
    buffer_size: PositiveInt = Field(512, description="newest transitions that the diffusion stage draws from")
    exploration: Fraction = Field(0.1, description="standard deviation added to x_0 while learning, in [-1, 1] units")

    @model_validator(mode="after")
    def _fewer_steps_than_trained(self) -> Self:
        if self.num_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"diffusion.num_inference_steps = {self.num_inference_steps} is above "
                f"diffusion.num_train_timesteps = {self.num_train_timesteps}"
            )
        if not self.beta_start <= self.beta_end:
            raise ValueError(f"diffusion.beta_start = {self.beta_start} is above beta_end = {self.beta_end}")
        if self.unet_kernel_size % 2 == 0:
            raise ValueError(f"diffusion.unet_kernel_size = {self.unet_kernel_size}: allowed is an odd number")
        return self


class AllocateSettings(Section):
    """The planner on fitted loss curves."""

    ridge: NonNegative = Field(3e-4, description="penalty on the curves' slopes, relative to the design's scale")
    exploration: Fraction = Field(0.05, description="share of random patterns among those it asks to measure")
    drop_share: Fraction = Field(1.0, description="largest share of modules given another rank when a plan is measured")
    forms: list[str] = Field(
        ["stiff", "separable", "text", "pairwise", "text-pairwise-smooth", "text-pairwise"],
        min_length=1,
        description="forms of the utility model to choose among by held-out measurements, simplest first",
    )
    prior: bool = Field(True, description="start from the components' squared gradients where there is an adapter")
    num_members: NonNegativeInt = Field(4, description="of the ensemble that says where to measure next")
    refit_growth: Annotated[float, Field(ge=1)] = Field(1.1, description="fit anew when so many times as many")


class CmaSettings(Section):
    """The search by CMA-ES."""

    population_size: Annotated[int, Field(ge=2)] | None = Field(
        None, description="vectors of a generation; none: 4 + 3 ln(number of modules)"
    )
    initial_std: Positive = Field(0.3, description="in units of half the rank range")
    initial_rank_fraction: Fraction = Field(0.25, description="mean rank at the start, as a share of r_max")


class PolicySettings(Section):
    """Which policy decides, and how long it learns."""

    name: str = Field("airllm", description="see `airlora policies --list`")
    steps: NonNegativeInt = Field(1024, description="environment steps of learning, objective `frozen`")
    rollout_steps: PositiveInt = Field(64, description="transitions between two learning stages")
    constant_rank: NonNegativeInt = Field(4, description="policy `constant`, also the start of every episode")
    patience: PositiveInt = Field(5, description="evaluations without better accuracy before the paper's early stop")
    early_stop: bool = True
    settings: dict[str, Any] = Field({})
    """Own settings of a policy, validated by the class of settings in its spec. Built-in policies have none."""

    @field_validator("settings")
    @classmethod
    def _resolved(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Return the policy's own settings with their defaults; raise `ValueError` if its name is unknown."""
        name = info.data.get("name")
        # A class that was not imported is allowed here: most commands on a finished run do not need its policy.
        if name is None or (is_class_path(name) and name not in policy_specs()):
            return settings
        try:
            own = find_policy(name).read_settings(settings)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return {} if own is None else own.model_dump(mode="json", exclude_none=True)

    @model_serializer(mode="wrap")
    def _without_empty_settings(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if name != "settings" or value}
