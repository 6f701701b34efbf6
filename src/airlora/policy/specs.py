"""Specs of the policies that users choose by name, and the registry that finds them.

| name of a policy | its spec | imported |
|---|---|---|
| `allocate`, `ppo`, ... | `SPECS` of a module of `airlora.policy` | always |
| name of an entry point in the group `airlora.policies` | value of the entry point: a spec or a class | always |
| `package.module:Class` | `SPECS` of that module, or made from the class | only by `import_policy` |

Entry points belong to installed packages, and `import_policy` is called for names on the command line. Neither a run
folder nor a policy file ever causes an import: its name must be known already.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Literal, TypeVar

import numpy.typing as npt

from airlora.errors import PolicyError, SettingsError
from airlora.policy.base import PolicyProblem, RankPolicy, is_learner
from airlora.settings.fields import Section
from airlora.settings.loading import validate
from airlora.settings.plugins import load_named_class

__all__ = [
    "ENTRY_POINTS",
    "Measurement",
    "PolicyInputs",
    "PolicySpec",
    "find_policy",
    "import_hint",
    "import_policy",
    "is_class_path",
    "policy_specs",
    "register_policy",
]

ENTRY_POINTS = "airlora.policies"
"""Group of the entry points by which installed packages add policies."""

Measurement = Literal["importance", "explained_variance"]
"""A quantity that is measured on the model, float [num_modules, r_max]; named as the field of `PolicyInputs`."""

_logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """Everything that a policy may be made from, besides its problem.

    Args:
        seed: Seed of the policy's weights and draws.
        sections: Sections of settings, at most one of each class.
        importance: Measured importance of every component, float [num_modules, r_max]. None if it was not measured.
        explained_variance: Explained variance ratio of every component, float [num_modules, r_max]. None if it was not
            measured.
        device: PyTorch device of the policy's networks.
    """

    seed: int = 0
    sections: tuple[Section, ...] = ()
    importance: npt.ArrayLike | None = None
    explained_variance: npt.ArrayLike | None = None
    device: str = "cpu"

    def section(self, kind: type[S]) -> S:
        """Return the section of this class, or one with the default values."""
        return next((section for section in self.sections if isinstance(section, kind)), None) or kind()


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy that users choose by name.

    The constructor of the class receives the arguments that it names: `problem`, `settings`, `seed`, `device`,
    `importance`, `explained_variance`, and the keys of `sections`. A class that needs other arguments has the class
    method `from_inputs(problem, inputs)`, see `PolicyInputs`.

    Args:
        name: Value of `--policy` and `policy.name`.
        policy: Class of the policy. Several specs may share a class and differ in `overrides`.
        summary: One line for `airlora policies --list`.
        needs: Quantity that must be measured on the model before the policy can be made.
        may_start_from_importance: Whether the policy uses measured importance before it has measured any loss, where
            the adapter is trained and `allocate.prior` is set.
        settings: Class of the policy's own settings. It validates the mapping `policy.settings`, and its instance is
            the constructor's argument `settings`.
        sections: Names of the constructor's arguments to the sections of a run's settings that they receive.
        overrides: Dotted keys of settings to values. They replace a preset's values; values of the user replace them.
        benchmarks: Benchmarks that include the policy by default: `synthetic` (problems with a known optimum) and
            `frozen` (adapters of finished runs).
        order: Place in lists; smaller numbers come first.
        colour: Colour of the policy's lines in figures, `#RRGGBB` or a name that Matplotlib knows.
        marker: Matplotlib marker of the policy's points.
    """

    name: str
    policy: type[RankPolicy]
    summary: str = ""
    needs: Measurement | None = None
    may_start_from_importance: bool = False
    settings: type[Section] | None = None
    sections: Mapping[str, type[Section]] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    benchmarks: tuple[Literal["synthetic", "frozen"], ...] = ("synthetic", "frozen")
    order: int = 1000
    colour: str = "black"
    marker: str = "x"

    @property
    def learns(self) -> bool:
        """Whether the policy measures losses and learns from them."""
        return is_learner(self.policy)

    def variant(self, name: str, summary: str, overrides: Mapping[str, Any]) -> PolicySpec:
        """Return a spec that differs in name, summary and overrides. Only the synthetic benchmark includes it."""
        return replace(self, name=name, summary=summary, overrides=overrides, benchmarks=("synthetic",))

    def read_settings(self, values: Mapping[str, Any]) -> Section | None:
        """Return the policy's own settings, or None if its spec names no class of settings.

        Args:
            values: The mapping `policy.settings`.

        Raises:
            SettingsError: A key is unknown or a value is not allowed.
        """
        if self.settings is None:
            if values:
                raise SettingsError.of(
                    "policy.settings", dict(values), f"no key, since the policy {self.name!r} has no settings"
                )
            return None
        return validate(self.settings, values, prefix="policy.settings")

    def make(self, problem: PolicyProblem, inputs: PolicyInputs) -> RankPolicy:
        """Return the policy in its initial state.

        Args:
            problem: Decision problem of the policy.
            inputs: Seed, settings and measurements.

        Raises:
            PolicyError: A measurement is missing, a setting is not allowed, or the class takes other arguments.
        """
        if self.needs is not None and getattr(inputs, self.needs) is None:
            raise PolicyError(f"policy {self.name!r}: needs the {self.needs} of every component, measured on the model")
        if hasattr(self.policy, "from_inputs"):
            policy: RankPolicy = self.policy.from_inputs(problem, inputs)
            return policy
        kinds = {**self.sections, **({"settings": self.settings} if self.settings else {})}
        known: dict[str, Any] = {name: inputs.section(kind) for name, kind in kinds.items()} | {"problem": problem}
        known |= {name: getattr(inputs, name) for name in ("seed", "device", "importance", "explained_variance")}
        signature = inspect.signature(self.policy)
        arguments = {name: known[name] for name in signature.parameters if name in known}
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise PolicyError(
                f"policy {self.name!r}: cannot be made, {error}; known arguments of {self.policy.__name__} are "
                f"{', '.join(known)}"
            ) from error
        return self.policy(**arguments)


_REGISTERED: dict[str, PolicySpec] = {}


def policy_specs() -> dict[str, PolicySpec]:
    """Return the specs of all known policies by name, in the order of `airlora policies --list`."""
    specs = (*_built_in(), *_installed(), *_REGISTERED.values())
    return {spec.name: spec for spec in sorted(specs, key=attrgetter("order"))}


def find_policy(name: str, *, others: Iterable[str] = ()) -> PolicySpec:
    """Return the spec of a known policy; nothing is imported.

    Args:
        name: Name of the policy.
        others: Further names that the caller accepts, for the error message.

    Raises:
        SettingsError: The name is unknown, or names a class that `import_policy` has not imported.
    """
    specs = policy_specs()
    if name in specs:
        return specs[name]
    if is_class_path(name):
        raise SettingsError(f"policy.name = {name!r}: {import_hint(name)}")
    raise SettingsError.of("policy.name", name, f"one of {', '.join([*others, *specs])}, or package.module:Class")


def import_hint(name: str) -> str:
    """Return the part of an error message that says how to import a class that a file names."""
    return (
        f"a class is never imported because a file names it; pass --policy {name}, or call "
        f"airlora.policy.import_policy({name!r})"
    )


def is_class_path(name: str) -> bool:
    """Return whether a name stands for a class, `package.module:Class`."""
    return ":" in name


def import_policy(name: str, *, others: Iterable[str] = ()) -> PolicySpec:
    """Return the spec of a policy; a class `package.module:Class` is imported and registered.

    Modules are found as `python -m` finds them: first in the current directory, then on `sys.path`. Call this only with
    names from the command line or from your own code, never with a name from a file.

    Args:
        name: Name of the policy.
        others: Further names that the caller accepts, for the error message.

    Raises:
        SettingsError: The name is unknown, the module or the class does not exist, or the class has no `decide`.
    """
    if not is_class_path(name) or name in policy_specs():
        return find_policy(name, others=others)
    return register_policy(load_named_class(name, "policy.name", ["decide"]), name)


def register_policy(policy: type[RankPolicy] | PolicySpec, name: str | None = None) -> PolicySpec:
    """Make a policy known under a name and return its spec.

    Args:
        policy: A class, or its spec. The spec of a class is looked up in `SPECS` of the class's module; a class without
            one gets a spec with the first line of its docstring as the summary.
        name: Name of the policy. The default is the spec's name, for a class `package.module:Class`.

    Raises:
        SettingsError: The value is not a policy, or the name belongs to a built-in or installed policy.
    """
    spec = _spec_of(policy, name)
    if any(spec.name == other.name for other in (*_built_in(), *_installed())):
        raise SettingsError.of("policy.name", spec.name, "a name that no built-in or installed policy has")
    _REGISTERED[spec.name] = spec
    return spec


@functools.cache
def _built_in() -> tuple[PolicySpec, ...]:
    package = importlib.import_module("airlora.policy")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "airlora.policy.")]
    return tuple(spec for name in names for spec in getattr(importlib.import_module(name), "SPECS", ()))


@functools.cache
def _installed() -> tuple[PolicySpec, ...]:
    names = {spec.name for spec in _built_in()}
    specs = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            spec = _spec_of(entry.load(), entry.name)
            if spec.name in names:
                raise SettingsError.of("policy.name", spec.name, "a name that no other policy has")
        except (Exception, SystemExit) as error:
            # A broken package, or one that exits, must not stop commands that do not use its policy.
            _logger.warning("policy %r of the installed entry point %s is left out: %s", entry.name, entry.value, error)
            continue
        names.add(spec.name)
        specs.append(spec)
    return tuple(specs)


def _spec_of(value: Any, name: str | None) -> PolicySpec:
    if isinstance(value, PolicySpec):
        return value if name is None else replace(value, name=name)
    if not (isinstance(value, type) and callable(getattr(value, "decide", None))):
        raise SettingsError.of("policy.name", name or value, "a class with the method `decide`, or a PolicySpec")
    name = name or f"{value.__module__}:{value.__qualname__}"
    summary = (inspect.getdoc(value) or "").partition("\n")[0]
    specs: tuple[PolicySpec, ...] = getattr(sys.modules.get(value.__module__), "SPECS", ())
    own = next((spec for spec in specs if spec.policy is value), PolicySpec(name, value, summary))
    return replace(own, name=name)
