"""Exchange of adapters with PEFT and loaders of its format, such as vLLM and llama.cpp."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
