"""The embedded corpus: labelled sentences generated from a grammar and word lists of airlora."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
