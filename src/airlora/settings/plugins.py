"""Classes that a user names by `package.module:Class`.

Importing a module runs its code. Callers therefore pass only names that come from the command line or from the user's
own code, never a name that was read from a file.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from airlora.errors import SettingsError

__all__ = ["load_named_class"]


def load_named_class(name: str, kind: str, methods: Iterable[str] = ()) -> type[Any]:
    """Import a module and return one of its classes.

    The module is searched as `python -m` searches: in the current directory first.

    Args:
        name: Module and class, `package.module:Class`.
        kind: Setting or option that the name was given for, such as `channel.process`. Error messages begin with it.
        methods: Names of the methods that the class must have.

    Raises:
        SettingsError: The name is malformed, the module cannot be imported, or the class is missing or lacks a method.

    Examples:
        >>> load_named_class("fractions:Fraction", "number", ["limit_denominator"])
        <class 'fractions.Fraction'>
    """
    module_name, _, class_name = name.partition(":")
    if not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise SettingsError.of(kind, name, "package.module:Class")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module's own code may raise anything, and a script may exit
        raise SettingsError(f"{kind} = {name!r}: importing {module_name} failed: {error!r}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise SettingsError.of(kind, name, f"a class of {module_name}, which has none of the name {class_name}")
    lacking = [method for method in methods if not callable(getattr(found, method, None))]
    if lacking:
        raise SettingsError.of(kind, name, f"a class with the method {lacking[0]}")
    return found
