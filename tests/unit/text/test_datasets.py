from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import DataError, SettingsError
from airlora.text import TextDataset, load_dataset

TEN = TextDataset(
    texts=tuple(f"text {i}" for i in range(10)),
    labels=(0, 1, 1, 1, 0, 1, 0, 1, 0, 1),
    label_names=("negative", "positive"),
    groups=tuple("abcdefghij"),
)


def test_size_and_number_of_labels() -> None:
    assert len(TEN) == 10
    assert TEN.num_labels == 2


def test_subset_keeps_texts_labels_and_groups_aligned() -> None:
    few = TEN.subset([7, 2], name="few")
    assert (few.texts, few.labels, few.groups) == (("text 7", "text 2"), (1, 1), ("h", "c"))
    assert (few.name, few.label_names) == ("few", TEN.label_names)


@pytest.mark.parametrize("index", [-1, 10])
def test_subset_index_outside_the_data_set_is_refused(index: int) -> None:
    with pytest.raises(DataError, match="allowed is 0 to 9"):
        TEN.subset([index])


@given(st.floats(0.3, 0.7), st.integers(0, 100))
def test_split_is_a_stratified_partition(fraction: float, seed: int) -> None:
    first, rest = TEN.split(fraction, seed)
    assert sorted(first.texts + rest.texts) == sorted(TEN.texts)
    assert list(first.texts) == sorted(first.texts)
    assert list(rest.texts) == sorted(rest.texts)
    assert first.labels.count(0) == round(4 * fraction)
    assert first.labels.count(1) == round(6 * fraction)
    assert TEN.split(fraction, seed) == (first, rest)


def test_split_depends_on_the_seed() -> None:
    assert len({TEN.split(0.5, seed)[0].texts for seed in range(10)}) > 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan"), 0.01])
def test_invalid_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="fraction"):
        TEN.split(fraction, 0)


@pytest.mark.parametrize(
    ("labels", "names", "groups", "message"),
    [
        ((0,), ("a", "b"), None, "1 labels for 2 texts"),
        ((0, 2), ("a", "b"), None, "allowed is 0 to 1"),
        ((0, -1), ("a", "b"), None, "allowed is 0 to 1"),
        ((0, 1), ("a", "a"), None, "names that differ"),
        ((0, 1), ("a", "b"), ("x",), "1 groups for 2 texts"),
    ],
)
def test_inconsistent_data_set_is_refused(
    labels: tuple[int, ...], names: tuple[str, ...], groups: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        TextDataset(("x", "y"), labels, names, groups=groups)


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["label\ttext", *rows]) + "\n", encoding="utf-8")
    return path


def test_max_samples_limits_the_lines_that_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", ["0\tbad", "1\tgood", "this line has no label"])
    assert load_dataset(path, max_samples=2).texts == ("bad", "good")
    with pytest.raises(DataError, match="line 4"):
        load_dataset(path)


@pytest.mark.parametrize("keyword", ["max_samples", "require_classes"])
def test_counts_below_one_are_refused(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(SettingsError, match=f"{keyword} = 0"):
        load_dataset(tmp_path, **{keyword: 0})  # type: ignore[arg-type]


def test_fewer_classes_than_required_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", ["1\tgood", "1\tfine"])
    with pytest.raises(DataError, match=r"1 different label\(s\) in 2 samples, such as '1'; 2 or more are needed"):
        load_dataset(path)
    assert load_dataset(path, require_classes=1).labels == (1, 1)


def test_message_of_an_unknown_label_names_file_line_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", ["good\tx", "fair\ty"])
    with pytest.raises(DataError, match=r"dev\.tsv, line 3, column label = 'fair': allowed is one of bad, good"):
        load_dataset(path, label_names=("bad", "good"))


def test_empty_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", ["0\tbad", "1\t "])
    with pytest.raises(DataError, match=r"data\.tsv, line 3, column text: the text is empty"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("value", "message"), [('"a\\u0000b"', "NUL character"), ('"\\ud800"', "surrogate"), ("5", "allowed is text")]
)
def test_json_values_that_are_no_unicode_text_are_refused(tmp_path: Path, value: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "fine", "label": 1}}\n{{"text": {value}, "label": 0}}\n')
    with pytest.raises(DataError, match=rf"line 2, column text.*{message}"):
        load_dataset(path)


def test_message_is_one_line_even_for_a_path_with_a_line_break(tmp_path: Path) -> None:
    path = write(tmp_path / "two\nlines.tsv", ["1\tgood"])
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
