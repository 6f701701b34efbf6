"""What a reproduction runs: scale, variant, data, model, seeds, and the trials of each method."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from airlora.errors import DataError, SettingsError
from airlora.files import read_bytes
from airlora.policy import DiffusionSettings, PPOSettings, find_policy
from airlora.reproduce.kinds import adapter_settings, settings_of
from airlora.reproduce.methods import AIRLLM, METHODS, PAPER_METHODS
from airlora.reproduce.scales import SCALES, Scale
from airlora.reproduce.trial import Trial, TrialResult
from airlora.settings.loading import value_at
from airlora.tasks import find_task, load_adapted
from airlora.training import Settings, load_settings, with_values

__all__ = [
    "CONSTANT_RANKS",
    "OPT_PARAMS_PER_RANK",
    "Plan",
    "Variant",
    "is_pending",
]

Variant = Literal["literal", "repaired"]

_PRESETS: Mapping[str, str] = {"literal": "paper-literal", "repaired": "paper"}

OPT_PARAMS_PER_RANK = 24 * (4 * (2048 + 2048 + 1) + 2 * (2048 + 8192 + 1))
"""Parameters that one rank in every module of OPT-1.3B costs."""

PAPER_BANDWIDTH_HZ = 1e8

MAX_SEEDS = 1000
"""Largest number of seeds. A plan lists the trials of all seeds."""

REFERENCE_SNR_DB = 5.0
"""SNR of the tables that have one number per method: the median of the paper's five."""

RATE_KEYS: Mapping[str, str] = {
    "changing ranks": "finetune.learning_rate",
    "constant rank": "finetune.learning_rate",
    "full rank": "finetune.learning_rate",
    "adalora": "finetune.adalora_learning_rate",
    "lora": "finetune.lora_learning_rate",
    "rslora": "finetune.lora_learning_rate",
}
"""Setting of the learning rate, by family of methods.

With the objective `live`, policies train an adapter of changing ranks, and the best constant rank is one of several
adapters of constant rank. `greedy`, `allocate` and the stream choose from an adapter that is trained at full rank.
"""

CONSTANT_RANKS = (1, 2, 4, 8, 16)
"""Ranks of which the best constant rank is chosen with the objective `live`."""

_LEARNERS = tuple(name for name in PAPER_METHODS if METHODS[name].policy)
"""Methods that the settings of PPO, diffusion and reward apply to."""

_LIVE = (*_LEARNERS, "random")
"""Methods that choose ranks while the adapter is fine-tuned, with the objective `live`."""


@dataclass(frozen=True)
class Plan:
    """All that the trials of a reproduction depend on.

    Args:
        scale: Scale of the reproduction.
        variant: `literal` for the paper as printed, `repaired` for the paper with its repairs.
        seeds: Seeds of every method.
        data: Name or folder of the data, or None for the corpus that airlora generates.
        model: Base model, or None for the scale's.
        bandwidth_hz: Bandwidth of every link, Hz.
        data_digest: Digest of the content of the data, so that other data make other trials.
        rates: Chosen factor of the learning rate by family of methods.
        known: Results of trials that others depend on, by key.
    """

    scale: Scale
    variant: Variant
    seeds: tuple[int, ...]
    data: str | None = None
    model: str | None = None
    bandwidth_hz: float = PAPER_BANDWIDTH_HZ
    data_digest: str = ""
    rates: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, TrialResult] = field(default_factory=dict, compare=False, repr=False)
    _trials: dict[str, list[Trial]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def make(
        cls,
        scale: str,
        variant: str,
        *,
        data: str | None = None,
        model: str | None = None,
        num_seeds: int | None = None,
    ) -> Plan:
        """Return a plan with the bandwidth for its model.

        Args:
            scale: Key of `SCALES`.
            variant: `literal` or `repaired`.
            data: Name or folder of the data. None takes the corpus that airlora generates, only at scale `quick`.
            model: Base model. None takes the scale's.
            num_seeds: Number of seeds. None takes the scale's.

        Raises:
            SettingsError: A value is not allowed.
            ModelError: The model cannot be loaded.
            DataError: The data are missing; the message says where to get them.
        """
        if scale not in SCALES:
            raise SettingsError.of("scale", scale, f"one of {', '.join(SCALES)}")
        if variant not in _PRESETS:
            raise SettingsError.of("variant", variant, f"one of {', '.join(_PRESETS)}")
        if num_seeds is not None and not 1 <= num_seeds <= MAX_SEEDS:
            raise SettingsError.of("seeds", num_seeds, f"1 to {MAX_SEEDS}")
        own = SCALES[scale]
        if data is None and scale != "quick":
            data = "sst2"
        if data is not None and Path(data).is_dir():
            data = str(Path(data).resolve())
        if model is not None and Path(model).is_dir():
            model = str(Path(model).resolve())
        first = 42  # Table II
        seeds = tuple(range(first, first + (num_seeds or own.num_seeds)))
        plan = cls(own, "literal" if variant == "literal" else "repaired", seeds, data, model)
        plan = replace(plan, data_digest=_data_digest(plan.settings()))
        return plan if own.keeps_bandwidth else replace(plan, bandwidth_hz=plan.scaled_bandwidth_hz())

    @property
    def preset(self) -> str:
        """Preset of the variant."""
        return _PRESETS[self.variant]

    @property
    def is_live(self) -> bool:
        """Whether policies choose ranks while the adapter is fine-tuned."""
        return self.scale.objective == "live"

    @functools.cached_property
    def steps(self) -> int:
        """Fine-tuning steps of every method."""
        return self.settings().finetune.steps

    @functools.cached_property
    def cost_weight(self) -> float:
        """Lambda of Eq. 9 unless a table varies it."""
        return self.settings().env.cost_weight

    def overrides(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings over the preset, by dotted key.

        Args:
            changes: Further settings, which replace those of scale and plan.
        """
        own = dict(self.scale.overrides) | {"channel.bandwidth_hz": [self.bandwidth_hz]}
        own["data.name"] = self.data or "embedded"
        if self.model is not None:
            own |= {"model.name": self.model}
        own |= {"env.objective": self.scale.objective}
        own |= changes or {}
        if own["env.objective"] == "frozen":
            own["env.reward_trend_steps"] = 0  # A frozen adapter's losses have no trend.
        return own

    def settings(self, changes: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings of a trial with these changes and the first seed."""
        return load_settings(self.preset, overrides=self.overrides(changes) | {"seed": self.seeds[0]})

    def scaled_bandwidth_hz(self) -> float:
        """Return the bandwidth at which one rank in every module costs as much airtime as on OPT-1.3B at 100 MHz."""
        settings = self.settings({"adapter.r_max": 1, "policy.constant_rank": 1})
        task, _ = find_task(settings.task).from_data(settings.data)
        adapted, *_ = load_adapted(settings, task)
        per_rank = sum(shape.params_per_rank for shape in adapted.shapes.values())
        return PAPER_BANDWIDTH_HZ * per_rank / OPT_PARAMS_PER_RANK

    def trial(self, method: str, seed: int, changes: Mapping[str, Any] | None = None) -> Trial:
        """Return the trial of a method.

        Args:
            method: Key of `METHODS`.
            seed: Seed of the trial.
            changes: Settings by dotted key that a table varies.
        """
        return self.trials(method, seed, changes)[0]

    def trials(
        self,
        method: str,
        seed: int,
        changes: Mapping[str, Any] | None = None,
        *,
        snrs_db: Sequence[float] = (REFERENCE_SNR_DB,),
    ) -> list[Trial]:
        """Return the trials of a method: one that measures every link, or for a PEFT method one per link.

        The best constant rank has a trial per rank of `CONSTANT_RANKS` with the objective `live`. The trial of a PEFT
        method depends on the parameters that PPO+DDIM/MLP sends with the same seed and changes over the same link.
        Until its result is in `known`, the option `budget` is None, and the trial cannot run (see `is_pending`).

        Args:
            method: Key of `METHODS`.
            seed: Seed of the trials.
            changes: Settings by dotted key that a table varies.
            snrs_db: SNRs for which a PEFT method is trained, dB.
        """
        key = json.dumps([method, changes, snrs_db])
        if key not in self._trials:
            self._trials[key] = self._make_trials(method, changes, snrs_db)
        trials = [replace(trial, seed=seed) for trial in self._trials[key]]
        if METHODS[method].budget != "policy":
            return trials
        budgets = [self._sent_params(seed, changes, snr_db) for snr_db in snrs_db]
        return [
            replace(trial, options={**trial.options, "budget": budget})
            for trial, budget in zip(trials, budgets, strict=True)
        ]

    def _sent_params(self, seed: int, changes: Mapping[str, Any] | None, snr_db: float) -> int | None:
        """Return the parameters that PPO+DDIM/MLP sends over a link, or None if its result is not known yet."""
        result = self.known.get(self.trial(AIRLLM, seed, changes).key)
        if result is None:
            return None
        return next(int(link["num_params"]) for link in result["links"] if link["snr_db"] == snr_db)

    def _make_trials(self, method: str, changes: Mapping[str, Any] | None, snrs_db: Sequence[float]) -> list[Trial]:
        own, seed = METHODS[method], self.seeds[0]
        fine, decision = self.scale.seconds[0], self.scale.seconds[1] * own.cost
        caps = self.caps(method)
        is_live = self.is_live and method in (*_LIVE, "best constant")
        live_family = "constant rank" if method == "best constant" else "changing ranks"
        family = own.baseline or (live_family if is_live else "full rank")
        varied = {**self._rate(family), **own.overrides, **self.sweep_updates(changes), **caps, **(changes or {})}
        learns = method in _LEARNERS
        if own.policy is not None:
            varied["policy.name"] = own.policy
        if own.baseline is not None:
            options = self.options(varied, learns=False) | {"method": own.baseline}
            each = [{**options, "snr_db": snr_db, "budget": own.budget} for snr_db in snrs_db]
            return [Trial("baseline", one, seed, self.steps, fine, family) for one in each]
        if is_live and method == "best constant":
            r_max = self.settings(varied).adapter.r_max
            ranks = [rank for rank in CONSTANT_RANKS if rank <= r_max]
            each = [self.options(varied | {"policy.constant_rank": rank}, learns=False) for rank in ranks]
            return [Trial("live", {**own, "on_calibration": True}, seed, self.steps, fine, family) for own in each]
        if is_live:
            return [Trial("live", self.options(varied, learns=learns), seed, self.steps, fine + decision, family)]
        frozen = self.options(varied | {"env.objective": "frozen"}, learns=learns)
        if own.policy is None:
            return [Trial("stream", frozen, seed, 1, 30.0, family)]
        if method == "best constant":
            return [Trial("best_constant", frozen, seed, 8, 3.0, family)]
        evaluations = self.scale.evaluations if find_policy(own.policy).learns else 0
        return [Trial("frozen", frozen | {"evaluations": evaluations}, seed, max(1, evaluations), decision, family)]

    def adapter_trials(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that fine-tune the adapters of `trials`, one per adapter, to run before them."""
        found: dict[str, Trial] = {}
        for trial in trials:
            if trial.kind in ("frozen", "best_constant", "stream"):
                settings = adapter_settings(settings_of(trial.options, trial.seed))
                plain = settings.model_dump(mode="json", exclude={"seed"})
                options = {"settings": plain, "data_digest": self.data_digest}
                own = Trial("adapter", options, trial.seed, settings.finetune.steps, self.scale.seconds[0])
                found.setdefault(own.key, own)
        return list(found.values())

    def options(self, changes: Mapping[str, Any], *, learns: bool) -> dict[str, Any]:
        """Return the options of a trial: all settings.

        Args:
            changes: Settings by dotted key, over those of scale and plan.
            learns: Whether the paper's policies learn in the trial. Otherwise their settings have no effect and take
                their defaults, so that both variants share the trial.
        """
        settings = self.settings(changes)
        if not learns:
            settings = with_values(settings, {"preset": "quick", "env.reward_trend_steps": 0})
            settings = settings.model_copy(update={"ppo": PPOSettings(), "diffusion": DiffusionSettings()})
        plain = settings.model_dump(mode="json", exclude={"seed"})
        return {"settings": plain, "data_digest": self.data_digest}

    def sweep_updates(self, changes: Mapping[str, Any] | None) -> dict[str, int]:
        """Return the setting of one update per diffusion step, if a stage visits the diffusion steps in order.

        Args:
            changes: Settings by dotted key, over those of scale and plan.
        """
        diffusion = self.settings(changes).diffusion
        is_sweep = diffusion.timestep_order == "sweep"
        return {"diffusion.updates_per_stage": diffusion.num_train_timesteps} if is_sweep else {}

    def caps(self, method: str) -> dict[str, int]:
        """Return the settings of a method that the scale bounds, by dotted key."""
        caps = self.scale.caps.get(method, {})
        return {key: min(bound, value_at(self.settings().model_dump(), key)) for key, bound in caps.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence per method that the scale bounds."""
        return tuple(
            f"{method} has bounds at this scale: {', '.join(f'{key} = {self.caps(method)[key]}' for key in bounds)}."
            for method, bounds in self.scale.caps.items()
        )

    def rate(self, family: str, factor: float = 1.0) -> float:
        """Return the scale's learning rate of a family of methods, times a factor."""
        section, _, name = RATE_KEYS[family].partition(".")
        return float(getattr(getattr(self.settings(), section), name)) * factor

    def _rate(self, family: str) -> dict[str, float]:
        return {RATE_KEYS[family]: self.rate(family, self.rates[family])} if family in self.rates else {}


def is_pending(trial: Trial) -> bool:
    """Return whether a trial depends on the result of another one that is not known yet (see `Plan.trials`)."""
    return trial.options.get("budget", 0) is None


def _data_digest(settings: Settings) -> str:
    """Return a digest of the files of the data, or of the names of data sets on the Hub.

    Raises:
        DataError: The data are missing; the message says where to get them.
    """
    sources = settings.data.sources()
    if sources is None:
        return ""
    digest = hashlib.sha256()
    for source in (sources.train, sources.eval):
        digest.update(read_bytes(Path(source), "data", DataError) if Path(source).is_file() else source.encode())
    return digest.hexdigest()[:20]
