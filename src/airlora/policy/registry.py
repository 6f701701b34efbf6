"""Registries of interchangeable classes and functions, one module each in a package of their own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from airlora.errors import PolicyError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to entries that the modules of one package register.

    Every look-up first imports all modules of the package. A new entry is therefore a new module in the package.

    Args:
        setting: Key of the setting that chooses an entry, for error messages.
        package: Import name of the package whose modules register entries.
    """

    def __init__(self, setting: str, package: str) -> None:
        self._setting = setting
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an entry. It raises `PolicyError` if the name is taken."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise PolicyError(f"{self._setting} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return register

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        return tuple(sorted(self._entries))

    def __getitem__(self, name: str) -> T:
        """Return the entry of a name.

        Raises:
            PolicyError: The name is unknown. The message lists the known names.
        """
        names = self.names()
        if name not in self._entries:
            raise PolicyError.of(self._setting, name, f"one of {', '.join(names)}")
        return self._entries[name]
