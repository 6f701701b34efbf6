"""The command line: each module parses the arguments of a command, calls one function and prints its result.

All modules of the package are imported, so that a new module needs no entry here.
"""

import importlib
import pkgutil

from airlora.cli.app import app, main

__all__ = ["app", "main"]

for _module in pkgutil.iter_modules(__path__):
    if _module.name != "__main__":
        importlib.import_module(f"{__name__}.{_module.name}")
app.registered_commands.sort(key=lambda command: str(command.name or getattr(command.callback, "__name__", "")))
