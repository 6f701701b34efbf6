"""Encoder of streams: precision, rounding, choice of entropy tables, order of items, deltas and QAT preview.

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
