"""The decision problem: reward, objectives, and the Gymnasium environment `airlora/RankAllocation-v0`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
