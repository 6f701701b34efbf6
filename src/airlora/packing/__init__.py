"""From a trained adapter to a stream: importance, quantisation-aware fine-tuning, encoding."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
