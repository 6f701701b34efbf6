"""Fine-tuning, Algorithm 1, early stopping, checkpoints, PEFT baselines, and the folder of a run."""

from airlora.training.algorithm1 import Algorithm1, StepRecord, is_learner
from airlora.training.checkpoint import load_checkpoint, save_checkpoint
from airlora.training.context import RunContext, build_context, read_held_out
from airlora.training.early_stopping import EarlyStopping
from airlora.training.finetune import FineTuner
from airlora.training.frozen import frozen_env, frozen_objective, learn_on_frozen
from airlora.training.interrupts import Interrupted, InterruptHandler
from airlora.training.links import decide_for_link, reference_link
from airlora.training.metrics import MetricsLog, read_metrics
from airlora.training.open_run import OpenRun, open_run
from airlora.training.open_stream import OpenStream, open_stream, read_stream_bytes
from airlora.training.peft_baselines import (
    AdaLoraResult,
    BaselinePoint,
    PeftMethod,
    measure_peft_baseline,
    train_adalora,
    train_adalora_sweep,
)
from airlora.training.policies import build_policy, problem_of
from airlora.training.processes import Job, num_processes, run_jobs
from airlora.training.run import RunFolder, RunRecord
from airlora.training.settings import FinetuneSettings, Settings, load_settings, save_settings, with_policy, with_values
from airlora.training.stream_metadata import stream_header
from airlora.training.train import Trainer, train

__all__ = [
    "AdaLoraResult",
    "Algorithm1",
    "BaselinePoint",
    "EarlyStopping",
    "FineTuner",
    "FinetuneSettings",
    "InterruptHandler",
    "Interrupted",
    "Job",
    "MetricsLog",
    "OpenRun",
    "OpenStream",
    "PeftMethod",
    "RunContext",
    "RunFolder",
    "RunRecord",
    "Settings",
    "StepRecord",
    "Trainer",
    "build_context",
    "build_policy",
    "decide_for_link",
    "frozen_env",
    "frozen_objective",
    "is_learner",
    "learn_on_frozen",
    "load_checkpoint",
    "load_settings",
    "measure_peft_baseline",
    "num_processes",
    "open_run",
    "open_stream",
    "problem_of",
    "read_held_out",
    "read_metrics",
    "read_stream_bytes",
    "reference_link",
    "run_jobs",
    "save_checkpoint",
    "save_settings",
    "stream_header",
    "train",
    "train_adalora",
    "train_adalora_sweep",
    "with_policy",
    "with_values",
]
