"""Names of interchangeable parts: a new part is a new file in its folder, and nothing else changes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from airlora.errors import PolicyError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """A map from name to part, filled by the files of one package.

    Every file of the package registers its part when it is imported, and the first look-up imports them all.

    Args:
        setting: The setting that chooses the part, for messages.
        package: Import name of the package whose files register parts.
    """

    def __init__(self, setting: str, package: str) -> None:
        self._setting = setting
        self._package = package
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that puts a part under `name`, which raises `PolicyError` if the name is taken."""

        def put(part: T) -> T:
            if name in self._parts:
                raise PolicyError(f"{self._setting} {name!r} is registered twice")
            self._parts[name] = part
            return part

        return put

    def names(self) -> tuple[str, ...]:
        """Return every name, sorted."""
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        return tuple(sorted(self._parts))

    def __getitem__(self, name: str) -> T:
        """Return the part under `name`.

        Raises:
            PolicyError: There is none; the message lists the names.
        """
        names = self.names()
        if name not in self._parts:
            raise PolicyError.of(self._setting, name, f"one of {', '.join(names)}")
        return self._parts[name]
