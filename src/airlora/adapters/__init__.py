"""Low-rank adapters in SVD form: layers, injection into models, components and files.

- `load_base_model` returns a classifier, `inject` adds a zero update to every projection (Eq. 1-3) and returns the
  `AdaptedModel`.
- `align_to_gradient` initialises the updates, `sample_ranks` and `keep_inactive` serve nested training.
- `components_of` and `canonicalise` order components by singular value. `ImportanceAccumulator` and
  `explained_variance_ratio` measure importance.
- `save_adapter` and `load_adapter` write and read adapter files. `airlora.adapters.peft` exchanges adapters with PEFT,
  vLLM and llama.cpp.
"""

from airlora.adapters.components import (
    LowRankUpdate,
    ModuleComponents,
    canonical_svd,
    canonicalise,
    components_of,
    install_updates,
)
from airlora.adapters.explained_variance import explained_variance_ratio
from airlora.adapters.importance import ImportanceAccumulator
from airlora.adapters.initialisation import align_to_gradient
from airlora.adapters.inject import AdaptedModel, dense_reference, inject
from airlora.adapters.models import EMBEDDED_MODEL, embedded_model_folder, load_base_model, no_dropout, remove_dropout
from airlora.adapters.nested import keep_inactive, sample_ranks
from airlora.adapters.projections import ROLES, ProjectionSite, find_head, find_projections, on_residual_side
from airlora.adapters.settings import AdapterSettings, FfnUpdate
from airlora.adapters.state import (
    AdapterMetadata,
    base_fingerprint,
    load_adapter,
    read_adapter_metadata,
    save_adapter,
)
from airlora.adapters.svd import (
    SVDFusedLinear,
    SVDLayer,
    SVDLinear,
    SVDResidualLinear,
    SVDUpdate,
    orthogonality_penalty,
)

__all__ = [
    "EMBEDDED_MODEL",
    "ROLES",
    "AdaptedModel",
    "AdapterMetadata",
    "AdapterSettings",
    "FfnUpdate",
    "ImportanceAccumulator",
    "LowRankUpdate",
    "ModuleComponents",
    "ProjectionSite",
    "SVDFusedLinear",
    "SVDLayer",
    "SVDLinear",
    "SVDResidualLinear",
    "SVDUpdate",
    "align_to_gradient",
    "base_fingerprint",
    "canonical_svd",
    "canonicalise",
    "components_of",
    "dense_reference",
    "embedded_model_folder",
    "explained_variance_ratio",
    "find_head",
    "find_projections",
    "inject",
    "install_updates",
    "keep_inactive",
    "load_adapter",
    "load_base_model",
    "no_dropout",
    "on_residual_side",
    "orthogonality_penalty",
    "read_adapter_metadata",
    "remove_dropout",
    "sample_ranks",
    "save_adapter",
]
