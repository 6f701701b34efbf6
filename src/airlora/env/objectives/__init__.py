"""Objectives: the loss of a rank pattern in closed form, by measuring a trained adapter, or by fine-tuning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
