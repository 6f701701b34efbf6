from .comparison import predict_decoded as predict_decoded
from .encoder_input import EncoderInput as EncoderInput
from .encoder_input import make_encoder_input as make_encoder_input
from .importance import IMPORTANCE_MEASURES as IMPORTANCE_MEASURES
from .importance import measure_explained_variance as measure_explained_variance
from .importance import measure_importance as measure_importance
from .pack import Packing as Packing
from .pack import pack_adapter as pack_adapter
