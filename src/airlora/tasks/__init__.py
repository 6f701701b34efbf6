"""Tasks of fine-tuning: their data, heads, losses and metrics; loading of base models, and evaluation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
