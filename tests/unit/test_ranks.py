import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import RankPatternError
from airlora.ranks import ModuleShape, RankPattern, paper_num_params, params_per_rank

SHAPES = {"layer.0.query": ModuleShape(384, 384), "layer.0.fc1": ModuleShape(384, 1536)}
NAMES = st.text("abcdefghij.0123456789_", min_size=1, max_size=12)
PATTERNS = st.dictionaries(NAMES, st.integers(0, 128), max_size=8).map(RankPattern)


def test_number_of_parameters_by_hand() -> None:
    pattern = RankPattern({"layer.0.query": 2, "layer.0.fc1": 3})
    assert params_per_rank(SHAPES) == (769, 1921)
    assert pattern.num_params(SHAPES) == 2 * 769 + 3 * 1921


def test_papers_count_assumes_square_projections() -> None:
    # Erratum 1: r (2 d_h + 1) holds for the projections of the attention, not for those of the FFN.
    assert paper_num_params([2], 384) == RankPattern({"q": 2}).num_params({"q": SHAPES["layer.0.query"]})
    assert paper_num_params([3], 384) == 2307
    assert RankPattern({"f": 3}).num_params({"f": SHAPES["layer.0.fc1"]}) == 5763


def test_opt_1_3b_has_the_published_number_of_parameters_per_rank() -> None:
    hidden, ffn = 2048, 8192
    layer = [ModuleShape(hidden, hidden)] * 4 + [ModuleShape(hidden, ffn), ModuleShape(ffn, hidden)]
    assert 24 * sum(shape.params_per_rank for shape in layer) == 884_880


@given(PATTERNS)
def test_json_round_trip_keeps_order(pattern: RankPattern) -> None:
    again = RankPattern.from_json(pattern.to_json())
    assert again == pattern
    assert again.names == pattern.names


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_pattern_survives_conversion_to_peft_and_back(ranks: list[int]) -> None:
    names = [f"model.layers.{i}.q_proj" for i in range(len(ranks))]
    pattern = RankPattern.from_ranks(names, ranks)
    assert RankPattern.from_peft(pattern.to_peft(), names, default=0) == pattern


def test_longest_matching_peft_key_applies() -> None:
    names = ["a.0.q_proj", "a.1.q_proj", "a.1.k_proj"]
    pattern = RankPattern.from_peft({"q_proj": 2, "1.q_proj": 5}, names, default=8)
    assert pattern.ranks == (2, 5, 8)


def test_equality_and_hash_depend_on_the_order() -> None:
    one, other = RankPattern({"a": 1, "b": 2}), RankPattern({"b": 2, "a": 1})
    assert one != other
    assert one == RankPattern({"a": 1, "b": 2})
    assert hash(one) == hash(RankPattern({"a": 1, "b": 2}))
    assert one != {"a": 1, "b": 2}


def test_numpy_integers_are_accepted() -> None:
    assert RankPattern.from_ranks(["a"], np.asarray([3])).to_dict() == {"a": 3}


@pytest.mark.parametrize("rank", [-1, 1.5, "2", None, True, float("nan")])
def test_invalid_ranks_are_refused(rank: object) -> None:
    with pytest.raises(RankPatternError, match="rank of a = .*whole number, 0 or more"):
        RankPattern({"a": rank})  # type: ignore[dict-item]


@pytest.mark.parametrize(("d_in", "d_out"), [(0, 1), (1, -1), (True, 1), (1.0, 1)])
def test_invalid_dimensions_are_refused(d_in: int, d_out: int) -> None:
    with pytest.raises(RankPatternError, match="whole number, 1 or more"):
        ModuleShape(d_in, d_out)


def test_unknown_and_missing_modules_are_refused() -> None:
    with pytest.raises(RankPatternError, match=r"module = 'x': allowed is one of the 2 adapted: layer.0.query"):
        RankPattern({"x": 1}).num_params(SHAPES)
    with pytest.raises(RankPatternError, match="lacks 1 of 2 modules: layer.0.fc1"):
        RankPattern({"layer.0.query": 1}).num_params(SHAPES)


def test_ranks_above_the_limit_are_refused() -> None:
    pattern = RankPattern.constant(SHAPES, 9)
    pattern.verify(SHAPES, max_rank=9)
    with pytest.raises(RankPatternError, match="rank of layer.0.query = 9: allowed is 0 to 8"):
        pattern.verify(SHAPES, max_rank=8)
    with pytest.raises(RankPatternError, match="0 to 384"):
        RankPattern.constant(SHAPES, 385).verify(SHAPES)


@pytest.mark.parametrize("text", ["", "[1]", "3", '{"a": -1}', '{"a": "b"}'])
def test_json_other_than_an_object_of_ranks_is_refused(text: str) -> None:
    with pytest.raises(RankPatternError):
        RankPattern.from_json(text)


def test_different_lengths_and_unmatched_peft_keys_are_refused() -> None:
    with pytest.raises(RankPatternError, match="3 ranks for 2 modules"):
        RankPattern.from_ranks(["a", "b"], [1, 2, 3])
    with pytest.raises(RankPatternError, match="rank_pattern key = 'v_proj'"):
        RankPattern.from_peft({"v_proj": 1}, ["a.q_proj"], default=0)
    with pytest.raises(RankPatternError, match="hidden_size = 0"):
        paper_num_params([1], 0)
