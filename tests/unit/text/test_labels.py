import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import DataError
from airlora.text.labels import MAX_CLASSES, LabelMapping, infer_labels


def infer(labels: list[object]) -> LabelMapping:
    return infer_labels(labels, [f"line {i}" for i in range(2, len(labels) + 2)], "a.tsv", "label")


@given(st.lists(st.integers(0, 20), min_size=1))
def test_whole_numbers_are_class_indices(labels: list[int]) -> None:
    for written in (list(labels), [str(label) for label in labels], [f"{label}.0" for label in labels]):
        mapping = infer(written)
        assert [mapping.index_of(label, "here") for label in written] == labels
        assert len(mapping.names) == max(labels) + 1


@given(st.lists(st.text("abcxyz", min_size=1), min_size=1))
def test_names_get_indices_in_sorted_order(labels: list[str]) -> None:
    mapping = infer(list(labels))
    assert mapping.names == tuple(sorted(set(labels)))
    assert [mapping.names[mapping.index_of(label, "here")] for label in labels] == labels


def test_truth_values_and_whole_floats_count_as_numbers() -> None:
    assert infer([True, False]).names == ("0", "1")
    assert infer([2.0, 0]).names == ("0", "1", "2")
    assert infer([" pos ", "neg"]).names == ("neg", "pos")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "-1"], r"line 3, column label = '-1': allowed is a whole number from 0 to 999"),
        (["0", "0.5"], r"line 3, column label = '0.5'"),
        (["0", "1e3"], r"line 3, column label = '1e3'"),
        (["0", str(MAX_CLASSES)], r"line 3, column label = '1000'"),
        (["0", "9" * 5000], r"line 3, column label"),
        (["0", "one", "1"], r"line 3, column label = 'one': allowed is whole numbers alone or names alone"),
        (["one", "two", "2"], r"line 4, column label = '2': allowed is whole numbers alone or names alone"),
        (["0", " "], r"line 3, column label = ' ': allowed is a whole number or a name"),
        (["0", None], r"line 3, column label = None"),
        (["0", 0.5], r"line 3, column label = 0.5"),
        (["0", float("nan")], r"line 3, column label = nan"),
        (["0", [1]], r"line 3, column label = \[1\]"),
        ([f"id-{i}" for i in range(MAX_CLASSES + 1)], r"column label: 1001 different labels; allowed are up to 1000"),
    ],
)
def test_invalid_columns_are_refused(labels: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        infer(labels)


def test_given_names_accept_the_name_or_the_index() -> None:
    mapping = LabelMapping(("negative", "positive"))
    assert [mapping.index_of(label, "here") for label in ("positive", "1", 1, True, "1.0")] == [1] * 5


def test_numeric_names_are_names_not_indices() -> None:
    mapping = LabelMapping(("1", "2"))
    assert [mapping.index_of(label, "here") for label in ("1", "2", 2, "2.0")] == [0, 1, 1, 1]
    with pytest.raises(DataError, match=r"here = '0': allowed is one of 1, 2"):
        mapping.index_of("0", "here")


@pytest.mark.parametrize("label", ["neutral", "", None, 0.5])
def test_label_outside_the_given_names_is_refused(label: object) -> None:
    with pytest.raises(DataError, match=r"dev.tsv, line 7"):
        LabelMapping(("negative", "positive")).index_of(label, "dev.tsv, line 7")


@pytest.mark.parametrize("label", [2, "2", "-1"])
def test_index_outside_the_given_names_is_refused(label: object) -> None:
    with pytest.raises(DataError, match=r"allowed is a whole number from 0 to 1"):
        LabelMapping(("negative", "positive")).index_of(label, "dev.tsv, line 7")


@pytest.mark.parametrize("names", [(), ("a", "a"), tuple(str(i) for i in range(MAX_CLASSES + 1))])
def test_invalid_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="names that differ"):
        LabelMapping(names)
