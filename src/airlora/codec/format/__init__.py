"""Byte format of a stream and its decoder: everything that a device needs to read a stream.

Requires NumPy and constriction. Functions that write a structure are next to those that read it, but no module of this
package imports `airlora.codec.encoder`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
