import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import DataError, SettingsError, StorageError
from airlora.text import TextDataset, load_dataset, save_tsv

TEN = TextDataset(
    texts=tuple(f"text {i}" for i in range(10)),
    labels=(0, 1, 1, 1, 0, 1, 0, 1, 0, 1),
    label_names=("negative", "positive"),
    groups=tuple("abcdefghij"),
)


def test_size() -> None:
    assert len(TEN) == 10
    assert TEN.num_labels == 2


def test_subset_keeps_rows_together() -> None:
    part = TEN.subset([7, 2], name="part")
    assert (part.texts, part.labels, part.groups) == (("text 7", "text 2"), (1, 1), ("h", "c"))
    assert (part.name, part.label_names) == ("part", TEN.label_names)


@pytest.mark.parametrize("index", [-1, 10])
def test_subset_outside(index: int) -> None:
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
def test_bad_split(fraction: float) -> None:
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
def test_bad_dataset(
    labels: tuple[int, ...], names: tuple[str, ...], groups: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        TextDataset(("x", "y"), labels, names, groups=groups)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(TEXTS, min_size=2, max_size=8))
def test_save_then_load_is_the_same_but_for_tabs_and_line_breaks(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "data.tsv"
    labels = tuple(i % 2 for i in range(len(texts)))
    save_tsv(TextDataset(tuple(texts), labels, ("good", "bad")), path)
    loaded = load_dataset(path, label_names=("good", "bad"))
    assert loaded.texts == tuple(text.replace("\t", " ").replace("\n", " ").replace("\r", " ") for text in texts)
    assert (loaded.labels, loaded.label_names, loaded.name) == (labels, ("good", "bad"), str(path))
    save_tsv(loaded, path)
    assert load_dataset(path, label_names=("good", "bad")) == loaded


def test_save_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        save_tsv(TEN, tmp_path / "none" / "data.tsv")


def test_failed_save_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.tsv"
    save_tsv(TEN, path)

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StorageError, match="no space left"):
        save_tsv(TEN.subset([0]), path)
    assert len(load_dataset(path)) == 10
    assert list(tmp_path.iterdir()) == [path]


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["label\ttext", *rows]) + "\n", encoding="utf-8")
    return path


def test_max_samples_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", ["0\tbad", "1\tgood", "this line has no label"])
    assert load_dataset(path, max_samples=2).texts == ("bad", "good")
    with pytest.raises(DataError, match="line 4"):
        load_dataset(path)


@pytest.mark.parametrize("keyword", ["max_samples", "require_classes"])
def test_bad_counts(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(SettingsError, match=f"{keyword} = 0"):
        load_dataset(tmp_path, **{keyword: 0})  # type: ignore[arg-type]


def test_one_class_only(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", ["1\tgood", "1\tfine"])
    with pytest.raises(DataError, match=r"1 different label\(s\) in 2 samples, such as '1'; 2 or more are needed"):
        load_dataset(path)
    assert load_dataset(path, require_classes=1).labels == (1, 1)


def test_pinned_names_error_names_file_line_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", ["good\tx", "fair\ty"])
    with pytest.raises(DataError, match=r"dev\.tsv, line 3, column label = 'fair': allowed is one of bad, good"):
        load_dataset(path, label_names=("bad", "good"))


def test_empty_text(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", ["0\tbad", "1\t "])
    with pytest.raises(DataError, match=r"data\.tsv, line 3, column text: the text is empty"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("value", "message"), [('"a\\u0000b"', "NUL character"), ('"\\ud800"', "surrogate"), ("5", "allowed is text")]
)
def test_json_texts_that_are_no_text(tmp_path: Path, value: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "fine", "label": 1}}\n{{"text": {value}, "label": 0}}\n')
    with pytest.raises(DataError, match=rf"line 2, column text.*{message}"):
        load_dataset(path)


def test_every_message_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "two\nlines.tsv", ["1\tgood"])
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
