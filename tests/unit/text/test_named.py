import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from airlora.errors import DataError
from airlora.tasks import Classification, DataSettings
from airlora.text import find_data

SST2 = Path(os.environ.get("AIRLORA_DATA", "data")) / "sst2"
ROWS = [("a dull film ", 0), ("a fine film ", 1), ("a good film ", 1)]


def write(folder: Path, name: str, columns: str = "text\tlabel") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{text}\t{label}" if columns.endswith("label") else f"{label}\t{text}" for text, label in ROWS]
    (folder / name).write_text("\n".join([columns, *lines]) + "\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home and current directory, without `AIRLORA_DATA`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRLORA_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def hide_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else found(name))


@pytest.mark.parametrize("held_out", ["dev.tsv", "validation.tsv", "eval.tsv"])
@pytest.mark.parametrize("columns", ["text\tlabel", "label\ttext", "sentence\tlabel"])
def test_a_folder_has_a_training_and_a_held_out_file(home: Path, held_out: str, columns: str) -> None:
    write(home / "mine", "train.tsv", columns)
    write(home / "mine", held_out, columns)
    (home / "mine" / "README.md").write_text("not data")
    settings = DataSettings(name=str(home / "mine"))
    task, data = Classification.from_data(settings)
    assert list(zip(data.texts, data.labels, strict=True)) == ROWS
    assert data.name.endswith("train.tsv")
    assert task.read(settings).name.endswith(held_out)
    # Other files for the same run may have either name, too.
    assert task.read(settings, str(home / "mine" / held_out)).texts == data.texts


def test_a_column_that_the_user_names_has_no_other_name(home: Path) -> None:
    write(home / "mine", "train.tsv", "sentence\tlabel")
    write(home / "mine", "dev.tsv", "sentence\tlabel")
    with pytest.raises(DataError, match="column 'review' is missing; there are 'sentence', 'label'"):
        Classification.from_data(DataSettings(name=str(home / "mine"), text_column="review"))
    with pytest.raises(DataError, match="column 'text' is missing"):
        Classification.from_data(DataSettings(train=str(home / "mine/train.tsv"), eval=str(home / "mine/dev.tsv")))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"files train.\* = \[\]: allowed is one file that ends in .tsv, .csv, .jsonl, .json, .parquet"),
        (["train.txt", "dev.tsv"], r"files train.\* = \[\]"),
        (["train.tsv"], r"files dev.\*, validation.\*, eval.\* = \[\]"),
        (["train.tsv", "train.csv", "dev.tsv"], r"files train.\* = \['train.csv', 'train.tsv'\]"),
        (["train.tsv", "dev.tsv", "eval.tsv"], r"= \['dev.tsv', 'eval.tsv'\]"),
    ],
)
def test_a_folder_without_exactly_one_file_for_each_part_is_refused(home: Path, files: list[str], message: str) -> None:
    for name in files:
        write(home / "mine", name)
    (home / "mine").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        find_data(str(home / "mine"))


def test_an_unknown_name_is_refused(home: Path) -> None:
    with pytest.raises(DataError, match=r"data.name = 'sst3': allowed is sst2, embedded, or a folder with train.\*"):
        find_data("sst3")


def test_a_known_data_set_is_taken_from_the_first_place_that_exists(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLORA_DATA", str(home / "own"))
    places = [home / "home/.cache/airlora/sst2", home / "here/data/sst2", home / "own/sst2"]
    for place in places:
        write(place, "train.tsv", "sentence\tlabel")
        write(place, "dev.tsv", "sentence\tlabel")
        sources = find_data("sst2")
        assert Path(sources.train).resolve() == place / "train.tsv"
        assert Path(sources.eval).resolve() == place / "dev.tsv"


def test_a_place_without_the_files_is_not_passed_over(home: Path) -> None:
    (home / "here/data/sst2").mkdir(parents=True)
    write(home / "home/.cache/airlora/sst2", "train.tsv")
    write(home / "home/.cache/airlora/sst2", "dev.tsv")
    with pytest.raises(DataError, match=r"data folder data/sst2: files train"):
        find_data("sst2")


def test_without_files_and_hub_one_line_names_the_places_and_the_remedy(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_hub(monkeypatch)
    with pytest.raises(DataError) as caught:
        Classification.from_data(DataSettings(name="sst2"))
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "data set sst2: not found in $AIRLORA_DATA (not set), data/sst2,",
        str(home / "home/.cache/airlora/sst2"),
        "nor on the Hugging Face Hub as stanfordnlp/sst2",
        "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
        "--data FOLDER",
        "pip install 'airlora[hub]'",
    ):
        assert part in text


class FakeHub(ModuleType):
    """Module `datasets` with a Hub that has SST-2 or cannot be reached."""

    def __init__(self, *, is_reachable: bool) -> None:
        super().__init__("datasets")
        self.__spec__ = importlib.util.spec_from_loader("datasets", loader=None)
        self.is_reachable = is_reachable
        self.asked: list[tuple[str, str | None, str]] = []

    def load_dataset(self, name: str, config: str | None, split: str) -> Any:
        self.asked.append((name, config, split))
        if not self.is_reachable:
            raise ConnectionError("no route\nto the Hub")
        rows = [{"idx": 0, "sentence": text, "label": label} for text, label in ROWS]
        table = SimpleNamespace(names=["negative", "positive"])

        class Table(list[dict[str, Any]]):
            column_names = ["idx", "sentence", "label"]
            features = {"label": table}

        return Table(rows)


def install(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    errors = ModuleType("datasets.exceptions")
    errors.DatasetsError = OSError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", errors)


def test_a_known_data_set_comes_from_the_hub_if_it_is_in_no_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(is_reachable=True)
    install(monkeypatch, hub)
    settings = DataSettings(name="sst2")
    task, data = Classification.from_data(settings)
    assert task.label_names == ("negative", "positive")
    assert data.texts == task.read(settings).texts == tuple(text for text, _ in ROWS)
    assert hub.asked == [("stanfordnlp/sst2", None, "train"), ("stanfordnlp/sst2", None, "validation")]


def test_a_hub_that_cannot_be_reached_is_refused_with_the_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeHub(is_reachable=False))
    with pytest.raises(DataError, match=r"not found in .* pass --data FOLDER \[.*no route to the Hub"):
        Classification.from_data(DataSettings(name="sst2"))


def test_the_embedded_corpus_has_a_name() -> None:
    settings = DataSettings(name="embedded", num_train=20, num_eval=10)
    assert settings.sources() is None
    assert Classification.from_data(settings)[1] == Classification.from_data(DataSettings(num_train=20, num_eval=10))[1]


@pytest.mark.skipif(not SST2.is_dir(), reason="needs the files of SST-2")
def test_the_files_of_sst2_are_read() -> None:
    settings = DataSettings(name=str(SST2))
    task, data = Classification.from_data(settings)
    assert (len(data), len(task.read(settings))) == (67349, 872)
