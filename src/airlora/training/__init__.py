"""Fine-tuning, Algorithm 1, early stopping, checkpoints, and the folder of a run."""

from airlora.training.adalora import AdaLoraResult, train_adalora
from airlora.training.adalora_sweep import train_adalora_sweep
from airlora.training.algorithm1 import Algorithm1, StepRecord, is_learner
from airlora.training.assemble import (
    Workbench,
    assemble,
    load_adapted,
    load_base,
    load_data,
    make_vocabulary,
    read_held_out,
)
from airlora.training.batches import BatchOrder, EncodedData, encode
from airlora.training.checkpoint import load_checkpoint, save_checkpoint
from airlora.training.early_stopping import EarlyStopping
from airlora.training.finetune import Evaluation, FineTuner, Predictions, evaluate, predict
from airlora.training.importance import measure_explained_variance, measure_importance
from airlora.training.interrupts import Interrupted, Interrupts
from airlora.training.links import decide_for_link, reference_link
from airlora.training.metrics import MetricsLog, read_metrics
from airlora.training.open_run import OpenRun, open_run
from airlora.training.open_stream import OpenStream, open_stream, read_stream_bytes
from airlora.training.packing import Packing, pack_adapter, stream_header, stream_sources
from airlora.training.peft_baselines import BaselinePoint, PeftMethod, measure_peft_baseline
from airlora.training.policies import build_policy, problem_of
from airlora.training.precision import available_threads, num_processes, pick_autocast, pick_device, set_threads
from airlora.training.processes import Job, run_jobs
from airlora.training.progress import LiveProgress, SilentWatcher, Watcher
from airlora.training.run import RunFolder, RunRecord
from airlora.training.train import Trainer, frozen_objective, train

__all__ = [
    "AdaLoraResult",
    "Algorithm1",
    "BaselinePoint",
    "BatchOrder",
    "EarlyStopping",
    "EncodedData",
    "Evaluation",
    "FineTuner",
    "Interrupted",
    "Interrupts",
    "Job",
    "LiveProgress",
    "MetricsLog",
    "OpenRun",
    "OpenStream",
    "Packing",
    "PeftMethod",
    "Predictions",
    "RunFolder",
    "RunRecord",
    "SilentWatcher",
    "StepRecord",
    "Trainer",
    "Watcher",
    "Workbench",
    "assemble",
    "available_threads",
    "build_policy",
    "decide_for_link",
    "encode",
    "evaluate",
    "frozen_objective",
    "is_learner",
    "load_adapted",
    "load_base",
    "load_checkpoint",
    "load_data",
    "make_vocabulary",
    "measure_explained_variance",
    "measure_importance",
    "measure_peft_baseline",
    "num_processes",
    "open_run",
    "open_stream",
    "pack_adapter",
    "pick_autocast",
    "pick_device",
    "predict",
    "problem_of",
    "read_held_out",
    "read_metrics",
    "read_stream_bytes",
    "reference_link",
    "run_jobs",
    "save_checkpoint",
    "set_threads",
    "stream_header",
    "stream_sources",
    "train",
    "train_adalora",
    "train_adalora_sweep",
]
