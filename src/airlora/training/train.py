"""A whole run: fine-tune, learn a policy, decide for the reference link, and keep everything on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from airlora.adapters import canonicalise, save_adapter
from airlora.env import FrozenObjective, LiveObjective, Objective, RankAllocationEnv
from airlora.errors import CheckpointError, SettingsError
from airlora.policy import RankPolicy, save_policy
from airlora.progress import SilentWatcher, Watcher
from airlora.ranks import RankPattern, paper_num_params
from airlora.tasks import evaluate, pick_autocast
from airlora.training.algorithm1 import Algorithm1, StepRecord, is_learner
from airlora.training.checkpoint import load_checkpoint, save_checkpoint
from airlora.training.context import Workbench, assemble
from airlora.training.early_stopping import EarlyStopping
from airlora.training.finetune import FineTuner
from airlora.training.interrupts import Interrupted, Interrupts
from airlora.training.links import decide_for_link, reference_link
from airlora.training.metrics import MetricsLog
from airlora.training.policies import build_policy, policy_needs_trained_adapter, verify_policy
from airlora.training.run import RunFolder, RunRecord
from airlora.training.settings import Settings

__all__ = ["Trainer", "frozen_objective", "train"]


def train(settings: Settings, out: Path | str, *, resume: bool = False, watcher: Watcher | None = None) -> RunRecord:
    """Return what a run came to, having written it to the folder `out`.

    Args:
        settings: Everything about it.
        out: A folder without a run in it, or with `resume` one whose run is to go on; `settings` must be its own then.
        resume: Go on from the folder's checkpoint, to the same result as without a break.
        watcher: Is told of the progress.

    Raises:
        AirloraError: Anything that is not usable; the message names it. What was saved before stays.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    folder = RunFolder(out)
    if resume:
        if folder.record_path.exists():
            raise CheckpointError(f"{folder.path}: the run is finished, there is nothing to resume")
        settings = folder.settings()
    else:
        folder.verify_free()
    trainer = Trainer(settings, folder, watcher or SilentWatcher())
    if not resume:
        folder.create(settings)
    return trainer.run(resume=resume)


def frozen_objective(bench: Workbench, settings: Settings) -> FrozenObjective:
    """Return the loss of the workbench's adapter on its calibration samples, at any ranks.

    The batches hold samples of similar length, so that they differ in text state.
    """
    indices = list(bench.calibration.in_order(settings.env.frozen_batch_size))
    return FrozenObjective(
        bench.adapted,
        [bench.calibration.batch(part, bench.device) for part in indices],
        [bench.calibration.complexity(part) for part in indices],
        autocast=pick_autocast(settings.finetune.precision, bench.device),
    )


class Trainer:
    """One run in two phases, each of which can be left and taken up again.

    `finetune`: the adapter is trained; with objective `live` at the ranks that the policy chooses while it learns
    (Algorithm 1), with `frozen` at full rank.  Then every module is put into canonical SVD order, so that any cut is
    its best approximation.  `learn`: Algorithm 1 goes on for `policy.steps` with the adapter frozen.

    Args:
        settings: Of the run.
        folder: Where it is kept.
        watcher: Is told of the progress.

    Raises:
        AirloraError: Settings, data or model are not usable.
    """

    def __init__(self, settings: Settings, folder: RunFolder, watcher: Watcher) -> None:
        self.settings = settings
        self.folder = folder
        self.is_live = settings.env.objective == "live"
        if self.is_live and policy_needs_trained_adapter(settings):
            raise SettingsError.of(
                "env.objective", "live", f"frozen with policy.name = {settings.policy.name!r}, which needs an adapter"
            )
        self.bench = assemble(settings)
        self.finetuner = FineTuner(self.bench.adapted, self.bench.train, settings, self.bench.device)
        self.link = reference_link(settings.channel)
        self._watcher = watcher
        self._phase = "finetune"
        self._early_stopping = EarlyStopping(settings.env.cost_weight, settings.policy.patience)
        self._rewards: list[float] = []
        self._stopped_early = False
        # Made before anything is written: settings of link and policy are checked by making them.
        env = self.make_env(self._live_objective())
        self._policy: RankPolicy | None = None
        if policy_needs_trained_adapter(settings):
            verify_policy(settings, env)
        else:
            self._policy = build_policy(settings, env, self.bench)
        self._algorithm: Algorithm1 | None = None

    def run(self, *, resume: bool) -> RunRecord:
        """Run both phases and return the record; see `train`."""
        state = load_checkpoint(self.folder.checkpoint_path, fingerprint=self.bench.fingerprint) if resume else None
        num_lines = state["metrics_lines"] if state else 0
        with (
            Interrupts() as self._interrupts,
            MetricsLog(self.folder.path, tensorboard=self.settings.tensorboard, num_lines=num_lines) as self._log,
        ):
            if state:
                self._restore(state)
            if self._phase == "finetune":
                self._finetune()
            policy = self._learn()
            return self._finish(policy)

    def make_env(self, objective: Objective) -> RankAllocationEnv:
        """Return the decision problem of this run on an objective."""
        return RankAllocationEnv(
            objective,
            channel=self.settings.channel,
            env=self.settings.env,
            initial_rank=self.settings.policy.constant_rank,
            hidden_size=self.bench.hidden_size,
        )

    def _algorithm_on(self, objective: Objective) -> Algorithm1:
        env = self.make_env(objective)
        if self._policy is None:
            self._policy = build_policy(self.settings, env, self.bench)
        return Algorithm1(
            env,
            self._policy,
            rollout_steps=self.settings.policy.rollout_steps,
            buffer_size=max(self.settings.policy.steps, self.settings.diffusion.buffer_size),
            seed=self.settings.seed,
        )

    def _live_objective(self) -> LiveObjective:
        env = self.settings.env
        return LiveObjective(self.finetuner, env.finetune_steps_per_action, env.full_rank_steps_per_action)

    def _finetune(self) -> None:
        """Fine-tune for `finetune.steps`, or until the paper's early stop; then order the components."""
        total, tuner = self.settings.finetune.steps, self.finetuner
        if self.is_live and self._algorithm is None:
            self._algorithm = self._algorithm_on(self._live_objective())
        full = RankPattern.constant(self.bench.adapted.shapes, self.bench.adapted.r_max)
        self._watcher.phase("fine-tuning", total, tuner.step)
        while tuner.step < total and not self._stopped_early:
            before = tuner.step
            if self._algorithm is not None:
                record = self._algorithm.step()
                self._report(record, tuner.step)
                self._rewards.append(record.reward)
            else:
                loss = tuner.train_step(full)
                self._rewards.append(-loss)
                self._log.write("finetune", tuner.step, {"loss": loss, "learning_rate": tuner.learning_rate})
                self._watcher.step(tuner.step, {"loss": loss, "mean rank": float(self.bench.adapted.r_max)})
            if tuner.step // self.settings.finetune.eval_every > before // self.settings.finetune.eval_every:
                self._evaluate(full)
            self._save_if_due(before, tuner.step)
        canonicalise(self.bench.adapted)
        self._phase = "learn"
        self._algorithm = None
        self._save()

    def _evaluate(self, full: RankPattern) -> None:
        """Measure accuracy where the run stands, and stop early if the paper's rule says so."""
        pattern = full
        if self._algorithm is not None:
            pattern = decide_for_link(
                self._algorithm.policy, self._algorithm.env, self.link, self.bench.eval.complexity()
            )
        result = self.finetuner.evaluate(self.bench.eval, pattern)
        values = {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "reward": float(np.mean(self._rewards)),
            "mean_rank": float(np.mean(pattern.ranks)),
        }
        self._rewards.clear()
        self._log.write("eval", self.finetuner.step, values)
        self._watcher.show({"accuracy": result.accuracy, "eval loss": result.loss})
        tuning = self.settings.finetune
        if self.finetuner.step <= tuning.head_steps + tuning.align_steps:
            return  # The adapter is zero until then: that it does not get better says nothing.
        stop = self._early_stopping.update(values["reward"], result.accuracy)
        self._stopped_early = stop and self.settings.policy.early_stop

    def _learn(self) -> RankPolicy:
        """Let the policy learn for `policy.steps` on the frozen adapter, and return it."""
        algorithm = self._algorithm or self._algorithm_on(frozen_objective(self.bench, self.settings))
        if is_learner(algorithm.policy):
            self._algorithm = algorithm
            total = self.settings.policy.steps
            self._watcher.phase(f"learning {self.settings.policy.name}", total, algorithm.num_steps)
            while algorithm.num_steps < total:
                record = algorithm.step()
                self._report(record, algorithm.num_steps)
                self._save_if_due(record.step - 1, record.step)
        return algorithm.policy

    def _finish(self, policy: RankPolicy) -> RunRecord:
        """Decide for the reference link, measure in full precision, and write adapter, policy and record."""
        bench, settings = self.bench, self.settings
        text = bench.eval.complexity()
        env = self.make_env(frozen_objective(bench, settings))
        pattern = decide_for_link(policy, env, self.link, text)
        bench.adapted.set_ranks(pattern)
        result = evaluate(bench.adapted.model, bench.eval, bench.device, settings.finetune.eval_batch_size)
        record = RunRecord(
            model=settings.model.name,
            fingerprint=bench.fingerprint,
            label_names=bench.label_names,
            modules={
                site.name: {"d_in": site.shape.d_in, "d_out": site.shape.d_out, "role": site.role, "layer": site.layer}
                for site in bench.adapted.sites
            },
            policy=settings.policy.name,
            rank_pattern=pattern,
            link={"snr_db": self.link.snr_db, "bandwidth_hz": self.link.bandwidth_hz},
            accuracy=result.accuracy,
            loss=result.loss,
            num_params=pattern.num_params(bench.adapted.shapes),
            paper_num_params=paper_num_params(pattern.ranks, bench.hidden_size),
            num_head_params=bench.adapted.head_params,
            steps=self.finetuner.step,
            text={"entropy_nats": text.entropy_nats, "oov_rate": text.oov_rate},
        )
        save_adapter(bench.adapted, self.folder.adapter_path, settings=settings.model_dump(mode="json"))
        save_policy(policy, self.folder.policy_path)
        self.folder.write_record(record)
        return record

    def _report(self, record: StepRecord, done: int) -> None:
        """Write a step of Algorithm 1 to the log and show it."""
        info = record.info
        state = info["observation"]
        mean_rank = float(np.mean(info["ranks"]))
        values = {
            "reward": record.reward,
            "loss": info["loss"],
            "cost": info["cost"],
            "params": info["params"],
            "seconds": info["seconds"],
            "violation": info["violation"],
            "mean_rank": mean_rank,
            "snr_db": info["snr_db"],
            "bandwidth_hz": info["bandwidth_hz"],
            "entropy_nats": state.entropy_nats,
            "oov_rate": state.oov_rate,
        }
        self._log.write(self._phase, done, values)
        if record.updates:
            self._log.write("update", done, record.updates)
        self._watcher.step(
            done,
            {
                "reward": record.reward,
                "loss": info["loss"],
                "mean rank": mean_rank,
                "share of deadline": info["cost"],
                "SNR dB": info["snr_db"],
            },
        )

    def _save_if_due(self, before: int, now: int) -> None:
        """Save every `checkpoint_every` steps, and before leaving on a signal."""
        if now // self.settings.checkpoint_every > before // self.settings.checkpoint_every:
            self._save()
        if self._interrupts.received is not None:
            self._save()
            raise Interrupted(
                f"interrupted in phase {self._phase} after {now} steps; saved, go on with: airlora train --resume "
                f"--out {self.folder.path}",
                self._interrupts.received,
            )

    def _save(self) -> None:
        state = {
            "phase": self._phase,
            "finetuner": self.finetuner.state_dict(),
            "policy": self._policy.state_dict() if self._policy else None,
            "algorithm": self._algorithm.state_dict() if self._algorithm else None,
            "early_stopping": self._early_stopping.state_dict(),
            "rewards": list(self._rewards),
            "metrics_lines": self._log.num_lines,
        }
        save_checkpoint(self.folder.checkpoint_path, state, fingerprint=self.bench.fingerprint)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: the same parts are built again, then filled."""
        self._phase = state["phase"]
        self.finetuner.load_state_dict(state["finetuner"])
        self._early_stopping.load_state_dict(state["early_stopping"])
        self._rewards = list(state["rewards"])
        live = self._phase == "finetune"
        objective = self._live_objective() if live else frozen_objective(self.bench, self.settings)
        if state["algorithm"] is not None:
            # Makes the policy too, where that needs the trained adapter.
            self._algorithm = self._algorithm_on(objective)
            self._algorithm.load_state_dict(state["algorithm"])
        if self._policy is not None and state["policy"] is not None:
            self._policy.load_state_dict(state["policy"])
