"""Training of a run: fine-tune, train a policy, decide for the reference link, and save everything to a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airlora.adapters import canonicalise, save_adapter
from airlora.codec import decode_stream
from airlora.env import LiveObjective, Objective
from airlora.errors import CheckpointError, SettingsError
from airlora.files import write_bytes
from airlora.packing import Packing, pack_adapter, predict_decoded
from airlora.policy import RankPolicy, save_policy
from airlora.policy.base import is_savable
from airlora.progress import ProgressReporter, SilentProgress
from airlora.ranks import RankPattern, paper_num_params
from airlora.tasks import evaluate
from airlora.training.algorithm1 import Algorithm1, StepRecord, is_learner
from airlora.training.checkpoint import load_checkpoint, save_checkpoint
from airlora.training.context import build_context
from airlora.training.early_stopping import EarlyStopping
from airlora.training.finetune import FineTuner
from airlora.training.frozen import frozen_env, frozen_objective, make_env
from airlora.training.init_from import init_from
from airlora.training.interrupts import Interrupted, InterruptHandler
from airlora.training.links import decide_for_link, reference_link
from airlora.training.metrics import MetricsLog
from airlora.training.policies import build_policy, policy_needs_trained_adapter, verify_policy
from airlora.training.run import RunFolder, RunRecord
from airlora.training.seeded import save_coefficients, seeded_form
from airlora.training.settings import Settings
from airlora.training.stream_metadata import stream_header

__all__ = ["Trainer", "train"]

_log = logging.getLogger(__name__)


def train(
    settings: Settings, out: Path | str, *, resume: bool = False, progress: ProgressReporter | None = None
) -> RunRecord:
    """Train a run, write it to a folder and return its result.

    Args:
        settings: Settings of the run. With `resume` the settings in the folder are used instead.
        out: Folder of the run. It must not contain a run yet, or with `resume` it must contain an unfinished one.
        resume: Whether to continue from the folder's checkpoint. The result is the same as without interruption.
        progress: Reporter of the progress.

    Raises:
        AirloraError: Settings, data or model are invalid. Files that were saved before are unchanged.
        Interrupted: SIGINT or SIGTERM arrived. The state is saved.
    """
    folder = RunFolder(out)
    if resume:
        if folder.record_path.exists():
            raise CheckpointError(f"{folder.path}: the run is finished, there is nothing to resume")
        settings = folder.settings()
    else:
        folder.verify_free()
    trainer = Trainer(settings, folder, progress or SilentProgress(), is_new=not resume)
    if not resume:
        folder.create(settings)
    return trainer.run(resume=resume)


@dataclass
class _StoppingProgress:
    """Reporter that also calls a function after every step, which may raise.

    Args:
        reporter: Receiver of the progress.
        verify: Function of the number of steps taken.
    """

    reporter: ProgressReporter
    verify: Callable[[int], None]

    def phase(self, title: str, total: int, done: int = 0) -> None:
        self.reporter.phase(title, total, done)

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        self.reporter.step(done, values)
        self.verify(done)

    def show(self, values: Mapping[str, Any]) -> None:
        self.reporter.show(values)


class Trainer:
    """A run in two phases, each of which can be interrupted and resumed.

    1. `finetune` trains the adapter. With `env.objective = "live"` the policy chooses the ranks while it learns
       (Algorithm 1); with `frozen` all ranks are r_max. At the end every module is brought into canonical SVD order,
       in which each truncation is the best approximation of its rank.
    2. `learn` continues Algorithm 1 on the frozen adapter for `policy.steps`.

    Args:
        settings: Settings of the run.
        folder: Folder of the run.
        progress: Reporter of the progress.
        is_new: Whether the run begins. A checkpoint replaces the adapter that `adapter.init_from` names.

    Raises:
        AirloraError: Settings, data or model are invalid.
    """

    def __init__(
        self, settings: Settings, folder: RunFolder, progress: ProgressReporter, *, is_new: bool = True
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.is_live = settings.env.objective == "live"
        if self.is_live and policy_needs_trained_adapter(settings):
            raise SettingsError.of(
                "env.objective", "live", f"frozen with policy.name = {settings.policy.name!r}, which needs an adapter"
            )
        self.context = build_context(settings)
        if settings.adapter.init_from is not None and is_new:
            init_from(self.context, settings.adapter.init_from)
        self._form = seeded_form(self.context, settings)
        self.finetuner = FineTuner(self.context.adapted, self.context.train, settings, self.context.device, self._form)
        self.link = reference_link(settings.channel)
        self._progress = progress
        self._phase = "finetune"
        self._early_stopping = EarlyStopping(settings.env.cost_weight, settings.policy.patience)
        self._rewards: list[float] = []
        self._stopped_early = False
        # Building link and policy validates their settings before any file is written.
        env = make_env(self._live_objective(), self.context, settings)
        self._policy: RankPolicy | None = None
        if policy_needs_trained_adapter(settings):
            verify_policy(settings, env)
        else:
            self._policy = build_policy(settings, env, self.context)
        self._algorithm: Algorithm1 | None = None

    def run(self, *, resume: bool) -> RunRecord:
        """Run both phases and return the result.

        Args:
            resume: Whether to continue from the folder's checkpoint.

        Raises:
            Interrupted: SIGINT or SIGTERM arrived. The state is saved.
        """
        state = load_checkpoint(self.folder.checkpoint_path, fingerprint=self.context.fingerprint) if resume else None
        num_lines = state["metrics_lines"] if state else 0
        with (
            InterruptHandler() as self._interrupts,
            MetricsLog(self.folder.path, tensorboard=self.settings.tensorboard, num_lines=num_lines) as self._metrics,
        ):
            if state:
                self._restore(state)
            if self._phase == "finetune":
                self._finetune()
            policy = self._learn()
            return self._finish(policy)

    def _algorithm_on(self, objective: Objective) -> Algorithm1:
        env = make_env(objective, self.context, self.settings)
        if self._policy is None:
            self._policy = build_policy(self.settings, env, self.context)
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
        """Fine-tune for `finetune.steps` or until early stopping, then bring the components into canonical order."""
        total, tuner = self.settings.finetune.steps, self.finetuner
        if self.is_live and self._algorithm is None:
            self._algorithm = self._algorithm_on(self._live_objective())
        full = RankPattern.constant(self.context.adapted.shapes, self.context.adapted.r_max)
        self._progress.phase("fine-tuning", total, tuner.step)
        while tuner.step < total and not self._stopped_early:
            before = tuner.step
            if self._algorithm is not None:
                record = self._algorithm.step()
                self._report(record, tuner.step)
                self._rewards.append(record.reward)
            else:
                loss = tuner.train_step(full)
                self._rewards.append(-loss)
                self._metrics.write("finetune", tuner.step, {"loss": loss, "learning_rate": tuner.learning_rate})
                self._progress.step(tuner.step, {"loss": loss, "mean rank": float(self.context.adapted.r_max)})
            if tuner.step // self.settings.finetune.eval_every > before // self.settings.finetune.eval_every:
                self._evaluate(full)
            self._save_if_due(before, tuner.step)
        if self._form is None:
            canonicalise(self.context.adapted)
        self._phase = "learn"
        self._algorithm = None
        self._save()

    def _evaluate(self, full: RankPattern) -> None:
        """Evaluate the adapter at the policy's ranks, or at full rank, and update early stopping."""
        pattern = full
        if self._algorithm is not None:
            pattern = decide_for_link(
                self._algorithm.policy, self._algorithm.env, self.link, self.context.eval.complexity()
            )
        result = self.finetuner.evaluate(self.context.eval, pattern)
        reward = float(np.mean(self._rewards))
        self._rewards.clear()
        values = {**result.values, "reward": reward, "mean_rank": float(np.mean(pattern.ranks))}
        self._metrics.write("eval", self.finetuner.step, values)
        self._progress.show({result.primary.name: result.score, "eval loss": result.loss})
        tuning = self.settings.finetune
        if self.finetuner.step <= tuning.head_steps + tuning.align_steps:
            return  # The adapter is still zero, so its score does not improve.
        score = result.primary.oriented(result.score)
        self._stopped_early = self._early_stopping.update(reward, score) and self.settings.policy.early_stop
        if self._stopped_early:
            _log.info("early stop after %d fine-tuning steps", self.finetuner.step)

    def _learn(self) -> RankPolicy:
        """Train the policy for `policy.steps` on the frozen adapter, if it learns, and return it."""
        algorithm = self._algorithm or self._algorithm_on(frozen_objective(self.context, self.settings))
        if is_learner(algorithm.policy):
            self._algorithm = algorithm
            total = self.settings.policy.steps
            self._progress.phase(f"learning {self.settings.policy.name}", total, algorithm.num_steps)
            while algorithm.num_steps < total:
                record = algorithm.step()
                self._report(record, algorithm.num_steps)
                self._save_if_due(record.step - 1, record.step)
        return algorithm.policy

    def _finish(self, policy: RankPolicy) -> RunRecord:
        """Decide for the reference link, evaluate in float32, and write adapter, policy and record."""
        context, settings = self.context, self.settings
        stream = self._write_stream()
        text = context.eval.complexity()
        if self._form is None:
            pattern = decide_for_link(policy, frozen_env(context, settings), self.link, text)
        else:
            pattern = RankPattern.constant(context.adapted.shapes, context.adapted.r_max)
        context.adapted.set_ranks(pattern)
        result = evaluate(context.adapted.model, context.eval, context.device, settings.finetune.eval_batch_size)
        record = RunRecord(
            model=settings.model.name,
            fingerprint=context.fingerprint,
            modules={
                site.name: {"d_in": site.shape.d_in, "d_out": site.shape.d_out, "role": site.role, "layer": site.layer}
                for site in context.adapted.sites
            },
            policy=settings.policy.name,
            rank_pattern=pattern,
            link={"snr_db": self.link.snr_db, "bandwidth_hz": self.link.bandwidth_hz},
            num_params=pattern.num_params(context.adapted.shapes)
            if self._form is None
            else self._form.coefficients.numel(),
            paper_num_params=paper_num_params(pattern.ranks, context.hidden_size),
            num_head_params=context.adapted.head_params,
            steps=self.finetuner.step,
            text={"entropy_nats": text.entropy_nats, "oov_rate": text.oov_rate},
            task=context.task,
            metrics=result.values,
            stream=stream,
        )
        save_adapter(context.adapted, self.folder.adapter_path, settings=settings.model_dump(mode="json"))
        if is_savable(policy):
            save_policy(policy, self.folder.policy_path)
        else:
            _log.warning("policy %s cannot be saved, so the run has no policy.pt", settings.policy.name)
        self.folder.write_record(record)
        return record

    def _write_stream(self) -> dict[str, float] | None:
        """Write the run's own stream if it has a size. Return its size and metrics.

        Afterwards the model holds a seeded adapter as its stream has it, but free components as they were trained.
        """
        context, own = self.context, self.settings.adapter
        if self._form is not None:
            save_coefficients(self._form, self.folder.coefficients_path)
        if own.stream_bytes is None:
            return None
        data = self._form.encode() if self._form is not None else self._packed(own.stream_bytes)
        if self._form is not None:
            self._form.write(rounded=True)
        write_bytes(self.folder.stream_path, data)
        decoded, batch_size = decode_stream(data, strict=True), self.settings.finetune.eval_batch_size
        found = predict_decoded(context.adapted, decoded, context.eval, context.device, batch_size).evaluation
        return {"bytes": len(data), **found.values}

    def _packed(self, stream_bytes: int) -> bytes:
        """Return the stream of free components, after QAT. A run that is interrupted meanwhile repeats QAT."""
        self._phase = "QAT"
        self._save()
        context, tuning = self.context, self.settings.finetune
        packing = Packing(max_bytes=stream_bytes, qat_steps=tuning.qat_steps, whole=not tuning.qat_prefixes)
        return pack_adapter(
            context.adapted,
            stream_header(context.adapted, self.settings, context.fingerprint, context.task),
            packing,
            self.settings.compute_options(context.device),
            calibration=context.calibration,
            train=context.train,
            watcher=_StoppingProgress(self._progress, self._raise_if_interrupted),
        )

    def _report(self, record: StepRecord, done: int) -> None:
        """Write a step of Algorithm 1 to the metrics and report it."""
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
        self._metrics.write(self._phase, done, values)
        if record.updates:
            self._metrics.write("update", done, record.updates)
        self._progress.step(
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
        """Save every `checkpoint_every` steps, and before ending on a signal."""
        if now // self.settings.checkpoint_every > before // self.settings.checkpoint_every:
            self._save()
        if self._interrupts.received is not None:
            self._save()
        self._raise_if_interrupted(now)

    def _raise_if_interrupted(self, now: int) -> None:
        """Raise `Interrupted` if a signal has arrived. The state must be saved."""
        if self._interrupts.received is not None:
            raise Interrupted(
                f"interrupted in phase {self._phase} after {now} steps; the state is saved, resume with: "
                f"airlora train --resume --out {self.folder.path}",
                self._interrupts.received,
            )

    def _save(self) -> None:
        state = {
            "phase": self._phase,
            "finetuner": self.finetuner.state_dict(),
            "policy": self._policy.state_dict() if self._policy and is_savable(self._policy) else None,
            "algorithm": self._algorithm.state_dict() if self._algorithm else None,
            "early_stopping": self._early_stopping.state_dict(),
            "rewards": list(self._rewards),
            "metrics_lines": self._metrics.num_lines,
        }
        save_checkpoint(self.folder.checkpoint_path, state, fingerprint=self.context.fingerprint)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._phase = state["phase"]
        self.finetuner.load_state_dict(state["finetuner"])
        self._early_stopping.load_state_dict(state["early_stopping"])
        self._rewards = list(state["rewards"])
        live = self._phase == "finetune"
        objective = self._live_objective() if live else frozen_objective(self.context, self.settings)
        if state["algorithm"] is not None:
            # This also builds a policy that needs the trained adapter.
            self._algorithm = self._algorithm_on(objective)
            self._algorithm.load_state_dict(state["algorithm"])
        if self._policy is not None and is_savable(self._policy) and state["policy"] is not None:
            self._policy.load_state_dict(state["policy"])
