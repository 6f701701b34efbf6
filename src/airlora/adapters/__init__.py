"""Low-rank updates in SVD form: the layers, the models that carry them, and the order and worth of their components.

`load_base_model` gives a classifier, `inject` puts a zero update beside every projection (Eq. 1-3) and returns the
`AdaptedModel`, `align_to_gradient` turns it to where the loss falls fastest, `keep_inactive` lets ranks go down and up
during training, `canonicalise` and `ImportanceAccumulator` say which components matter, `explained_variance_ratio` what
the inputs look like, and `save_adapter` and `load_adapter` keep components in a file. `export_peft`, `export_uniform`
and `load_peft` exchange adapters with PEFT and what reads its format.
"""

from airlora.adapters.canonical import canonical_svd, canonicalise
from airlora.adapters.components import LowRankUpdate, ModuleComponents, components_of, install_updates
from airlora.adapters.dropout import no_dropout, remove_dropout
from airlora.adapters.explained_variance import explained_variance_ratio
from airlora.adapters.fingerprint import base_fingerprint
from airlora.adapters.importance import ImportanceAccumulator
from airlora.adapters.inject import AdaptedModel, dense_reference, inject
from airlora.adapters.models import EMBEDDED_MODEL, embedded_model_folder, load_base_model, random_initialised
from airlora.adapters.nested import sample_ranks
from airlora.adapters.optim import keep_inactive
from airlora.adapters.peft_export import PeftExport, export_peft, export_uniform
from airlora.adapters.peft_import import PeftAdapter, PeftRequirements, load_peft, peft_requirements, read_peft
from airlora.adapters.projections import ROLES, FfnUpdate, ProjectionSite, find_head, find_projections, on_residual_side
from airlora.adapters.settings import AdapterSettings
from airlora.adapters.start import align_to_gradient
from airlora.adapters.state import AdapterMetadata, load_adapter, read_adapter_metadata, save_adapter
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
    "PeftAdapter",
    "PeftExport",
    "PeftRequirements",
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
    "export_peft",
    "export_uniform",
    "find_head",
    "find_projections",
    "inject",
    "install_updates",
    "keep_inactive",
    "load_adapter",
    "load_base_model",
    "load_peft",
    "no_dropout",
    "on_residual_side",
    "orthogonality_penalty",
    "peft_requirements",
    "random_initialised",
    "read_adapter_metadata",
    "read_peft",
    "remove_dropout",
    "sample_ranks",
    "save_adapter",
]
