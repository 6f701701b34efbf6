"""Make policies by name, and save and load their files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from airlora.errors import PolicyError
from airlora.files import seal, unseal, write_bytes
from airlora.policy.base import PolicyProblem, RankPolicy, SavablePolicy, missing_for_saving, policy_name
from airlora.policy.specs import PolicyInputs, find_policy, import_hint, is_class_path, policy_specs
from airlora.policy.table import TablePolicy
from airlora.settings.fields import Section

__all__ = ["load_policy", "make_policy", "policy_classes", "save_policy"]

# A file is the line "airlora-policy VERSION SHA-256" and then a PyTorch archive, whose digest the line holds.
_VERSION = 3


def policy_classes() -> dict[str, type[Any]]:
    """Return the classes that a policy file may name, by the name that the file stores.

    A built-in class is stored under its attribute `name`, any other class as `package.module:Class`.
    """
    classes: list[type[Any]] = [TablePolicy, *(spec.policy for spec in policy_specs().values())]
    return {stored_name(cls): cls for cls in classes}


def stored_name(cls: type[RankPolicy]) -> str:
    """Return the name under which `save_policy` stores a class."""
    is_built_in = cls.__module__.startswith("airlora.policy.")
    return policy_name(cls) if is_built_in else f"{cls.__module__}:{cls.__qualname__}"


def make_policy(
    name: str,
    problem: PolicyProblem,
    *sections: Section,
    seed: int,
    importance: npt.ArrayLike | None = None,
    explained_variance: npt.ArrayLike | None = None,
    device: str = "cpu",
) -> RankPolicy:
    """Return a policy in its initial state.

    Args:
        name: Name of a known policy, see `policy_specs`.
        problem: Decision problem of the policy.
        sections: Settings, such as `PPOSettings()`, or an instance of the policy's own class of settings. Sections that
            are not given have their default values; the overrides of the policy's spec are not applied.
        seed: Seed of weights and draws.
        importance: Measured importance of every component, float [num_modules, r_max].
        explained_variance: Explained variance ratio of every component, float [num_modules, r_max].
        device: PyTorch device of the policy's networks.

    Raises:
        SettingsError: The name is unknown.
        PolicyError: A measurement is missing or a setting is not allowed.

    Examples:
        >>> from airlora.observation import ObservationSpec
        >>> problem = PolicyProblem(("a",), (3,), ObservationSpec(num_modules=1, r_max=4))
        >>> make_policy("constant", problem, seed=0).name
        'constant'
    """
    return find_policy(name).make(problem, PolicyInputs(seed, sections, importance, explained_variance, device))


def save_policy(policy: RankPolicy, path: Path | str) -> None:
    """Write a policy with its problem, arguments and state to a file, atomically.

    Raises:
        PolicyError: The policy is not a `SavablePolicy`.
        StorageError: The file cannot be written.
    """
    missing = missing_for_saving(policy)
    if missing:
        raise PolicyError(f"policy {policy_name(policy)!r}: cannot be saved, since it lacks {', '.join(missing)}")
    savable: Any = policy
    buffer = io.BytesIO()
    value = {
        "name": stored_name(type(policy)),
        "problem": savable.problem.to_dict(),
        "arguments": savable.arguments,
        "state": savable.state_dict(),
    }
    torch.save(value, buffer)
    write_bytes(path, seal(buffer.getvalue(), "policy", _VERSION))


def load_policy(path: Path | str, problem: PolicyProblem | None = None, device: str = "cpu") -> SavablePolicy:
    """Return the policy in a file. No code in the file is run, and no class is imported because the file names it.

    Args:
        path: A file that `save_policy` wrote.
        problem: Problem to decide about. None means the problem that the policy was made for.
        device: PyTorch device of the policy's networks.

    Raises:
        PolicyError: The file is missing, damaged, foreign or of another version. Or its policy was made for another
            model or r_max, or has a class of your own that was not imported (see `import_policy`).
    """
    content = unseal(path, "policy", _VERSION, PolicyError)
    try:
        value: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for refused pickles
        raise PolicyError(f"policy {path}: damaged or not a policy ({type(error).__name__})") from error
    try:
        own, name, classes = PolicyProblem.from_dict(value["problem"]), value["name"], policy_classes()
        if name not in classes and is_class_path(name):
            raise PolicyError(f"policy {path}: made by the class {name}; {import_hint(name)}")
        policy: SavablePolicy = classes[name].from_arguments(own, value["arguments"], device)
        policy.load_state_dict(value["state"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(f"policy {path}: damaged ({type(error).__name__}: {error})") from error
    if problem is not None:
        own.verify_same(problem)
    return policy
