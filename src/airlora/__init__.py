"""airlora decides which low-rank adapter components to send over a weak link, and learns that decision.

The names below are the public API; each is loaded when it is first used, so that `import airlora` stays quick.
Importing airlora registers the Gymnasium environment `airlora/RankAllocation-v0`.
"""

import gymnasium
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The class is named, not imported: making an environment loads it.
gymnasium.register(id="airlora/RankAllocation-v0", entry_point="airlora.env:RankAllocationEnv")
