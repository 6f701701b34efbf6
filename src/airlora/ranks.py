"""Rank patterns: the rank of each adapted module, and the number of parameters that follows.

A `RankPattern` is an ordered mapping from module name to rank. Policies decide it, and training and delivery apply it.
At rank 0 nothing is sent for a module. (Eq. 9 starts at rank 1, the paper's action space at 0; airlora uses 0.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airlora.errors import RankPatternError

__all__ = ["ModuleShape", "RankPattern", "paper_num_params", "params_per_rank"]


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """In- and out-features of one adapted module.

    Args:
        d_in: In-features, the number of columns of W0, >= 1.
        d_out: Out-features, the number of rows of W0, >= 1.

    Raises:
        RankPatternError: A dimension is below 1.
    """

    d_in: int
    d_out: int

    def __post_init__(self) -> None:
        for name, value in (("d_in", self.d_in), ("d_out", self.d_out)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RankPatternError.of(name, value, "a whole number, 1 or more")

    @property
    def params_per_rank(self) -> int:
        """Number of parameters of one rank-one component (p, lambda, q): d_in + d_out + 1.

        Examples:
            >>> ModuleShape(384, 1536).params_per_rank
            1921
        """
        return self.d_in + self.d_out + 1

    @property
    def max_rank(self) -> int:
        """Largest useful rank, min(d_in, d_out)."""
        return min(self.d_in, self.d_out)


def params_per_rank(shapes: Mapping[str, ModuleShape]) -> tuple[int, ...]:
    """Return the number of parameters of one component, d_in + d_out + 1, per module in the order of `shapes`."""
    return tuple(shape.params_per_rank for shape in shapes.values())


def paper_num_params(ranks: Iterable[int], hidden_size: int) -> int:
    r"""Return the paper's count of the parameters of an adapter.

    $$\sum_m r_m (2 d_h + 1)$$

    The count assumes that every projection is d_h x d_h, which fc1 and fc2 are not (erratum 1). Use it for comparison
    with the paper's tables only; `RankPattern.num_params` returns the true number.

    Notation: r_m ranks[m]; d_h hidden_size.

    Args:
        ranks: Rank of each module, >= 0.
        hidden_size: Hidden size d_h of the model, >= 1.

    Raises:
        RankPatternError: hidden_size is below 1.

    Source: AirLLM III-A1, the count inside Eq. 6.

    Examples:
        >>> paper_num_params([1, 2], hidden_size=384)
        2307
    """
    if hidden_size < 1:
        raise RankPatternError.of("hidden_size", hidden_size, "a whole number, 1 or more")
    return sum(ranks) * (2 * hidden_size + 1)


class RankPattern(Mapping[str, int]):
    """Immutable ordered mapping from module name to rank.

    Args:
        ranks: Ranks by module name, in the order of the model's modules; 0 or more.

    Raises:
        RankPatternError: A rank is negative or not a whole number.

    Examples:
        >>> pattern = RankPattern({"layer.0.query": 2, "layer.0.key": 0})
        >>> pattern.num_params({"layer.0.query": ModuleShape(4, 4), "layer.0.key": ModuleShape(4, 4)})
        18
    """

    __slots__ = ("_ranks",)

    def __init__(self, ranks: Mapping[str, int]) -> None:
        checked: dict[str, int] = {}
        for name, rank in ranks.items():
            if isinstance(rank, bool) or not hasattr(rank, "__index__") or int(rank) < 0:
                raise RankPatternError.of(f"rank of {name}", rank, "a whole number, 0 or more")
            checked[str(name)] = int(rank)
        self._ranks = checked

    @classmethod
    def from_ranks(cls, names: Iterable[str], ranks: Iterable[int]) -> RankPattern:
        """Return the pattern with rank `ranks[i]` for module `names[i]`.

        Args:
            names: Module names, in order.
            ranks: Rank of each module, >= 0.

        Raises:
            RankPatternError: The lengths differ, or a rank is not allowed.
        """
        keys, values = list(names), list(ranks)
        if len(keys) != len(values):
            raise RankPatternError(f"{len(values)} ranks for {len(keys)} modules: one rank per module is needed")
        return cls(dict(zip(keys, values, strict=True)))

    @classmethod
    def constant(cls, names: Iterable[str], rank: int) -> RankPattern:
        """Return the pattern with the same rank for every module."""
        return cls(dict.fromkeys(names, rank))

    @classmethod
    def from_json(cls, text: str) -> RankPattern:
        """Return the pattern from the result of `to_json`.

        Raises:
            RankPatternError: The text is not a JSON object of module name to rank.
        """
        try:
            value: Any = json.loads(text)
        except ValueError as error:
            raise RankPatternError(f"rank pattern is not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise RankPatternError.of("rank pattern", value, "a JSON object of module name to rank")
        return cls(value)

    @classmethod
    def from_peft(cls, rank_pattern: Mapping[str, int], names: Iterable[str], default: int) -> RankPattern:
        """Return the pattern of PEFT's `rank_pattern` and `r`.

        A key matches a module if the name equals the key or ends in "." and the key. The longest matching key applies.
        Keys are compared as strings, whereas PEFT interprets them as regular expressions and applies the first match.

        Args:
            rank_pattern: PEFT's `rank_pattern`, ranks by names or endings of names.
            names: Names of all adapted modules.
            default: PEFT's `r`, the rank of modules without a matching key.

        Raises:
            RankPatternError: A key matches no module.
        """
        modules = list(names)
        keys = sorted(rank_pattern, key=len, reverse=True)
        for key in keys:
            if not any(_peft_matches(key, name) for name in modules):
                raise RankPatternError.of("rank_pattern key", key, f"a module's name or its end, such as {modules[:2]}")
        return cls({name: next((rank_pattern[k] for k in keys if _peft_matches(k, name)), default) for name in modules})

    def to_dict(self) -> dict[str, int]:
        """Return the ranks by module name as a dict, in order."""
        return dict(self._ranks)

    def to_json(self) -> str:
        """Return the pattern as one line of JSON, for `from_json`."""
        return json.dumps(self._ranks)

    def to_peft(self) -> dict[str, int]:
        """Return PEFT's `rank_pattern` with full names. Modules of rank 0 are omitted, because PEFT has no rank 0."""
        return {name: rank for name, rank in self._ranks.items() if rank > 0}

    @property
    def names(self) -> tuple[str, ...]:
        """Module names, in order."""
        return tuple(self._ranks)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks, in order."""
        return tuple(self._ranks.values())

    def num_params(self, shapes: Mapping[str, ModuleShape]) -> int:
        r"""Return the number of parameters of the adapter, $\sum_m r_m (d^{in}_m + d^{out}_m + 1)$.

        Args:
            shapes: Shapes of the adapted modules by name.

        Raises:
            RankPatternError: The modules of pattern and `shapes` differ, or a rank is above min(d_in, d_out).
        """
        self.verify(shapes)
        return sum(rank * shapes[name].params_per_rank for name, rank in self._ranks.items())

    def verify(self, shapes: Mapping[str, ModuleShape], max_rank: int | None = None) -> None:
        """Raise an error unless the pattern fits the modules.

        Args:
            shapes: Shapes of the model's adapted modules by name. The pattern must have exactly these names.
            max_rank: Largest allowed rank r_max, or None for min(d_in, d_out) of each module.

        Raises:
            RankPatternError: A module is unknown or missing, or a rank is too large.
        """
        missing = [name for name in shapes if name not in self._ranks]
        unknown = [name for name in self._ranks if name not in shapes]
        if unknown:
            raise RankPatternError.of("module", unknown[0], f"one of the {len(shapes)} adapted: {_first(list(shapes))}")
        if missing:
            raise RankPatternError(f"rank pattern lacks {len(missing)} of {len(shapes)} modules: {_first(missing)}")
        for name, rank in self._ranks.items():
            limit = shapes[name].max_rank if max_rank is None else min(max_rank, shapes[name].max_rank)
            if rank > limit:
                raise RankPatternError.of(f"rank of {name}", rank, f"0 to {limit}")

    def __getitem__(self, name: str) -> int:
        return self._ranks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranks)

    def __len__(self) -> int:
        return len(self._ranks)

    def __repr__(self) -> str:
        return f"RankPattern({self._ranks!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RankPattern):
            return list(self._ranks.items()) == list(other._ranks.items())
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._ranks.items()))


def _peft_matches(key: str, name: str) -> bool:
    return name == key or name.endswith(f".{key}")


def _first(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(names[:count])
    return f"{shown}, ..." if len(names) > count else shown
