"""The wireless link (III-A2): its fading and its rate, and the cost of sending a rank pattern over it.

`link` draws a link per episode for the environment, from the distributions of `fading` and the rate models of `rates`
(Eq. 5). `budget` converts a rate into transfer time, cost and a budget of parameters (Eq. 6 to 8). `awgn` and `qpsk`
send symbols (Eq. 4). `settings` holds the settings, names and ranges of the package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
