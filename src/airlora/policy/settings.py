"""Sections of settings for the policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from airlora.errors import SettingsError
from airlora.policy.specs import find_policy, is_class_path, policy_specs
from airlora.settings.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section

__all__ = ["AllocateSettings", "CmaSettings", "DiffusionSettings", "PPOSettings", "PolicySettings"]


class PPOSettings(Section):
    """Settings of PPO, the coarse policy (Eq. 11 and 12)."""

    hidden_size: PositiveInt = 256
    """Width of the hidden layers of actor and critic."""
    learning_rate: Positive = 3e-4
    """Learning rate of actor and critic (Adam)."""
    gamma: Fraction = 0.0
    """Discount factor of future rewards (Eq. 11)."""
    gae_lambda: Fraction = 0.95
    """Decay of generalised advantage estimation (ζ of Eq. 11)."""
    clip_coef: Positive = 0.2
    """Clipping range of the probability ratio (Eq. 12)."""
    vf_coef: NonNegative = 0.5
    """Weight of the value loss."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    update_epochs: PositiveInt = 10
    """Passes over the rollout in each learning stage."""
    minibatch_size: PositiveInt = 32
    """Transitions in a minibatch."""
    max_grad_norm: Positive = 0.5
    """Norm that gradients are clipped to."""
    initial_std: Positive = 0.3
    """Initial standard deviation of the Gaussian policy, in units of half the rank range."""
    initial_rank_fraction: Fraction = 0.25
    """Initial mean rank, as a share of r_max."""
    latent_size: PositiveInt | None = None
    """Length of a_out, for the policy `airllm`. None uses one entry per module."""


class DiffusionSettings(Section):
    """Settings of the diffusion model, the fine policy (Eq. 13 to 19)."""

    backbone: str = "residual_mlp"
    """Denoising network: `residual_mlp` or `unet`."""
    hidden_size: PositiveInt = 256
    """Width of the hidden layers of the denoising network and of the learned critic."""
    num_blocks: PositiveInt = 2
    """Residual blocks of the backbone `residual_mlp`."""
    time_embedding_size: PositiveInt = 64
    """Length of the embedding of the diffusion step."""
    unet_depth: PositiveInt = 6
    """Resolutions of the backbone `unet`. Fewer are used where halving reaches a single module first."""
    unet_kernel_size: PositiveInt = 3
    """Kernel size of the convolutions of the backbone `unet`, an odd number."""
    unet_channels: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels of the backbone `unet` at the first resolution."""
    unet_channel_growth: Annotated[int, Field(ge=1, le=2)] = 1
    """Factor of the channels from one resolution of the backbone `unet` to the next: 1, or 2 as in the paper."""
    num_train_timesteps: PositiveInt = 1000
    """Steps of the forward process."""
    beta_schedule: str = "scaled_linear"
    """Noise schedule: `linear`, `scaled_linear` or `cosine`."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Noise variance of the first step. The schedule `cosine` ignores it."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 2e-2
    """Noise variance of the last step, at least `beta_start`. The schedule `cosine` ignores it."""
    prediction_type: str = "epsilon"
    """Output of the denoising network: `epsilon`, `sample` or `v_prediction`."""
    sampler: str = "ddim"
    """Sampler: `ddim` or `ddpm`."""
    num_inference_steps: PositiveInt = 50
    """Denoising steps of a sample, at most `num_train_timesteps` (T_diff)."""
    eta: Fraction = 0.0
    """Noise of the sampler `ddim`. 0 is deterministic, 1 is as noisy as `ddpm`."""
    all_ddpm_steps: bool = False
    """Let the sampler `ddpm` visit all `num_train_timesteps` instead of `num_inference_steps`."""
    x0_estimate: Literal["exact", "posterior_mean"] = "exact"
    """Estimate of x_0 in Eq. 17, for the sampler `ddim`: `exact` solves Eq. 14 for x_0, `posterior_mean` takes Eq. 16
    as printed."""
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "linspace"
    """Diffusion steps that a short sampler visits: multiples of the stride from 0 (`leading`), evenly from the last
    step to 0 (`linspace`), or strides down from the last step (`trailing`)."""
    clip_sample: bool = True
    """Clip every estimate of x_0 to [-1, 1], the range of ranks."""
    guidance_scale: NonNegative = 1.0
    """Scale w of classifier-free guidance. 1 uses the conditional prediction alone, 0 the unconditional one."""
    condition_dropout: Fraction = 0.1
    """Share of training samples whose condition is dropped, for classifier-free guidance."""
    condition: Literal["a_out", "state", "a_out_and_state", "budget_and_text"] = "a_out"
    """Input of the sampler: PPO's output, the state, both, or the link's budget and the text. The policy `ddim` has
    no PPO and reads `a_out` as `state`."""
    loss: str = "advantage_weighted"
    """Training loss: `literal` (Eq. 19 as printed), `advantage_weighted`, `q_guided`, `policy_gradient` or `expert`."""
    kappa: NonNegative = 0.1
    """Weight κ of the reward term of Eq. 19, for the losses `literal` and `expert`."""
    critic: Literal["learned", "utility"] = "learned"
    """Critic of the loss `q_guided`: a network that learns rewards, or the utility model."""
    critic_weight: NonNegative = 1.0
    """Weight of the critic's value beside the denoising error, for the loss `q_guided`."""
    critic_learning_rate: Positive = 1e-3
    """Learning rate of the learned critic (Adam)."""
    critic_updates: PositiveInt = 64
    """Gradient steps of the learned critic in each learning stage."""
    num_plans: PositiveInt = 256
    """Plans that the loss `expert` imitates. Each is made for one link budget and one text."""
    plan_exploration: Fraction = 0.5
    """Share of explored patterns that the utility model chooses, for the loss `expert` without PPO."""
    min_std: Positive = 0.1
    """Smallest standard deviation of a denoising step, for the loss `policy_gradient`."""
    fill: bool = False
    """Give the rest of the budget to the components of highest predicted utility. Requires `channel.deadline_mode`
    `project`."""
    num_decision_samples: PositiveInt = 8
    """Samples that are averaged to a decision."""
    warmup_updates: NonNegativeInt = 500
    """Gradient steps before the first decision, in which the network imitates its starting distribution."""
    rehearsal_weight: NonNegative = 1.0
    """Weight of the warm-up's loss in every later step, for the policy `airllm`."""
    temperature: Positive = 0.3
    """Temperature of the advantage weights, in standard deviations of the advantage. Small values favour the best
    samples."""
    learning_rate: Positive = 1e-4
    """Learning rate of the denoising network (Adam)."""
    batch_size: PositiveInt = 64
    """Transitions in a batch."""
    updates_per_stage: PositiveInt = 32
    """Gradient steps in each learning stage."""
    timestep_order: Literal["random", "sweep"] = "random"
    """Diffusion steps of the gradient steps: `random` draws one for every sample, `sweep` takes one for the whole
    batch, from the first to the last within a learning stage (lines 17 to 21 of Algorithm 1)."""
    buffer_size: PositiveInt = 512
    """Newest transitions that a learning stage draws from. At least one rollout is used."""
    exploration: Fraction = 0.1
    """Standard deviation of the noise added to x_0 while learning. Ranks span [-1, 1]."""

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
    """Settings of the utility model and of the planner `allocate`."""

    ridge: NonNegative = 3e-4
    """Ridge penalty on the loss curves, relative to their mean squared column."""
    exploration: Fraction = 0.05
    """Share of random patterns among those that are measured."""
    drop_share: Fraction = 1.0
    """Largest share of modules whose rank is changed when a plan is measured."""
    forms: list[str] = Field(
        ["stiff", "separable", "text", "pairwise", "text-pairwise-smooth", "text-pairwise"], min_length=1
    )
    """Candidate forms of the utility model, simplest first. Held-out measurements choose among them."""
    prior: bool = True
    """Start from the components' squared gradients, if the objective is `frozen`."""
    num_members: NonNegativeInt = 4
    """Models of the ensemble that chooses the next measurements."""
    refit_growth: Annotated[float, Field(ge=1)] = 1.1
    """Factor by which the measurements grow before the model is fitted again."""


class CmaSettings(Section):
    """Settings of the policy `cmaes`."""

    population_size: Annotated[int, Field(ge=2)] | None = None
    """Vectors of a generation. None uses 4 + 3 ln(number of modules)."""
    initial_std: Positive = 0.3
    """Initial standard deviation of the search, in units of half the rank range."""
    initial_rank_fraction: Fraction = 0.25
    """Initial mean rank, as a share of r_max."""


class PolicySettings(Section):
    """Choice of the policy, and how long it learns."""

    name: str = "airllm"
    """Policy that decides the ranks, a name that `airlora policies --list` shows."""
    steps: NonNegativeInt = 1024
    """Environment steps in which the policy learns on the frozen adapter, after fine-tuning."""
    rollout_steps: PositiveInt = 64
    """Environment steps between two learning stages."""
    constant_rank: NonNegativeInt = 4
    """Rank of every module with the policy `constant`, and at the start of every episode."""
    device: str = "cpu"
    """PyTorch device of the policy's networks: `cpu`, `auto`, or a name such as `cuda:0`. `auto` takes CUDA where there
    is a GPU."""
    patience: PositiveInt = 5
    """Evaluations in a row without a better accuracy after which the early stop applies (V-A)."""
    early_stop: bool = True
    """End fine-tuning early by the paper's rule (V-A)."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Own settings of a policy whose spec has a class for them, see the how-to on writing a policy."""

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
