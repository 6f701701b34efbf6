"""From a trained adapter to a stream: importance, quantisation-aware fine-tuning, encoding."""

from airlora.packing.comparison import predict_decoded
from airlora.packing.encoder_input import EncoderInput, make_encoder_input
from airlora.packing.importance import IMPORTANCE_MEASURES, measure_explained_variance, measure_importance
from airlora.packing.pack import Packing, pack_adapter

__all__ = [
    "IMPORTANCE_MEASURES",
    "EncoderInput",
    "Packing",
    "make_encoder_input",
    "measure_explained_variance",
    "measure_importance",
    "pack_adapter",
    "predict_decoded",
]
