"""Registries: implementations that a setting chooses by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from airlora.errors import PolicyError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Map from the values of a setting to implementations.

    Args:
        setting: Name of the setting that chooses the implementation, for error messages.
        package: Import name of a package whose modules register implementations.  A look-up imports all of them.
            None imports nothing: the module of the registry registers its implementations itself.
    """

    def __init__(self, setting: str, package: str | None = None) -> None:
        self._setting = setting
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an implementation.

        Raises:
            PolicyError: The name is already in use; the decorator raises it.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise PolicyError(f"{self._setting} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> tuple[str, ...]:
        """Return the registered names, sorted."""
        if self._package is not None:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
        return tuple(sorted(self._entries))

    def __getitem__(self, name: str) -> T:
        """Return the implementation that is registered under a name.

        Raises:
            PolicyError: The name is not registered; the message lists the registered names.
        """
        names = self.names()
        if name not in self._entries:
            raise PolicyError.of(self._setting, name, f"one of {', '.join(names)}")
        return self._entries[name]
