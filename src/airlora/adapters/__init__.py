"""Low-rank adapters in SVD form: layers, injection into models, components and files.

- `load_base_model` returns a classifier, `inject` adds a zero update to every projection (Eq. 1-3) and returns the
  `AdaptedModel`.
- `align_to_gradient` initialises the updates, `sample_ranks` and `keep_inactive` serve nested training.
- `components_of` and `canonicalise` order components by singular value. `ImportanceAccumulator` and
  `explained_variance_ratio` measure importance.
- `save_adapter` and `load_adapter` write and read adapter files. `airlora.adapters.peft` exchanges adapters with PEFT,
  vLLM and llama.cpp.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
