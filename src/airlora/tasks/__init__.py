"""What is fine-tuned and how it is scored: data, base model, batches, evaluation."""

from airlora.tasks.batches import BatchOrder, EncodedData, encode
from airlora.tasks.evaluation import Evaluation, Predictions, evaluate, predict
from airlora.tasks.loading import load_adapted, load_base, load_data, make_vocabulary
from airlora.tasks.precision import ComputeOptions, available_threads, pick_autocast, pick_device, set_threads
from airlora.tasks.settings import DataSettings, LoadSettings, ModelSettings

__all__ = [
    "BatchOrder",
    "ComputeOptions",
    "DataSettings",
    "EncodedData",
    "Evaluation",
    "LoadSettings",
    "ModelSettings",
    "Predictions",
    "available_threads",
    "encode",
    "evaluate",
    "load_adapted",
    "load_base",
    "load_data",
    "make_vocabulary",
    "pick_autocast",
    "pick_device",
    "predict",
    "set_threads",
]
