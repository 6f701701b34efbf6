"""Tasks of fine-tuning: their data, heads, losses and metrics; loading of base models, and evaluation."""

from airlora.tasks.base import Dataset, EncodedData, Metric, Task, find_metrics, find_task, model_inputs
from airlora.tasks.batches import BatchOrder, encode_texts
from airlora.tasks.classification import Classification
from airlora.tasks.evaluation import Evaluation, Predictions, evaluate, predict
from airlora.tasks.loading import head_modules, hidden_size, load_adapted, load_base, make_vocabulary
from airlora.tasks.precision import ComputeOptions, available_threads, pick_autocast, pick_device, set_threads
from airlora.tasks.settings import DataSettings, LoadSettings, ModelSettings

__all__ = [
    "BatchOrder",
    "Classification",
    "ComputeOptions",
    "DataSettings",
    "Dataset",
    "EncodedData",
    "Evaluation",
    "LoadSettings",
    "Metric",
    "ModelSettings",
    "Predictions",
    "Task",
    "available_threads",
    "encode_texts",
    "evaluate",
    "find_metrics",
    "find_task",
    "head_modules",
    "hidden_size",
    "load_adapted",
    "load_base",
    "make_vocabulary",
    "model_inputs",
    "pick_autocast",
    "pick_device",
    "predict",
    "set_threads",
]
