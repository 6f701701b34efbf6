"""Data sets that are named: known ones, which are looked for in some places, and folders with a file for each part."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airlora.errors import DataError, MissingDependencyError
from airlora.text.datasets import TextDataset, load_dataset
from airlora.text.readers import SUFFIXES

__all__ = ["KNOWN_DATA", "DataSources", "KnownData", "find_data"]

HELD_OUT = ("dev", "validation", "eval")
"""Names of the held-out file in a folder, without the suffix."""


@dataclass(frozen=True, slots=True)
class KnownData:
    """A public data set that is known by name.

    Args:
        title: Name of the data set in texts.
        hub_train: Training part on the Hugging Face Hub, a source for `load_dataset`.
        hub_eval: Held-out part on the Hub.
        url: Address from which the files can be downloaded.
    """

    title: str
    hub_train: str
    hub_eval: str
    url: str


KNOWN_DATA = {
    "sst2": KnownData(
        title="SST-2 of GLUE",
        hub_train="hf:stanfordnlp/sst2:train",
        hub_eval="hf:stanfordnlp/sst2:validation",
        url="https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
    )
}
"""Known data sets by name."""


@dataclass(frozen=True, slots=True)
class DataSources:
    """Sources of the training data and of the held-out data, for `load_dataset`.

    Args:
        train: File or Hub data set to train on.
        eval: File or Hub data set that accuracy is measured on.
        remedy: Message of the error if a part on the Hub cannot be loaded. Empty for files.
    """

    train: str
    eval: str
    remedy: str = ""

    def load_train(self, **options: Any) -> TextDataset:
        """Return the training data; raises `DataError`.

        Args:
            options: Arguments of `load_dataset`.
        """
        return self._load(self.train, options)

    def load_eval(self, **options: Any) -> TextDataset:
        """Return the held-out data; the arguments and errors are those of `load_train`."""
        return self._load(self.eval, options)

    def _load(self, source: str, options: dict[str, Any]) -> TextDataset:
        if not self.remedy:
            return load_dataset(source, **options)
        try:
            return load_dataset(source, **options)
        except (DataError, MissingDependencyError) as error:
            raise DataError(f"{self.remedy} [{error}]") from error


def find_data(name: str) -> DataSources:
    """Return the sources of a data set that is known by name, or of a folder.

    A known data set is taken from the first of these places that exists:

    | place | when |
    |---|---|
    | `$AIRLORA_DATA/NAME` | the environment variable is set |
    | `data/NAME` | always; in the current directory |
    | `~/.cache/airlora/NAME` | always |
    | the Hugging Face Hub | the extra `hub` is installed |

    A folder holds one file `train.*` and one of `dev.*`, `validation.*` and `eval.*`, in a format of `load_dataset`.

    Args:
        name: Key of `KNOWN_DATA`, or path of a folder. A known name always means the known data set; `./NAME` is the
            folder.

    Raises:
        DataError: The name is unknown, the folder lacks a file or has several, or the data set is in none of the
            places.
    """
    if name not in KNOWN_DATA:
        if not Path(name).is_dir():
            known = ", ".join([*KNOWN_DATA, "embedded"])
            raise DataError.of("data.name", name, f"{known}, or a folder with train.* and dev.*")
        return _in_folder(Path(name))
    places = _places(name)
    for place in places:
        if place.is_dir():
            return _in_folder(place)
    known_data = KNOWN_DATA[name]
    remedy = _remedy(name, known_data, places)
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"{remedy} [the Hub needs the package datasets: pip install 'airlora[hub]']")
    return DataSources(known_data.hub_train, known_data.hub_eval, remedy)


def _places(name: str) -> list[Path]:
    own = os.environ.get("AIRLORA_DATA")
    return [*([Path(own) / name] if own else []), Path("data") / name, Path.home() / ".cache" / "airlora" / name]


def _remedy(name: str, known: KnownData, places: Sequence[Path]) -> str:
    hint = "" if "AIRLORA_DATA" in os.environ else "$AIRLORA_DATA (not set), "
    return (
        f"data set {name}: not found in {hint}{', '.join(map(str, places))}, nor on the Hugging Face Hub as "
        f"{known.hub_train.split(':')[1]}; download {known.title} from {known.url}, put its train.tsv and dev.tsv into "
        "one of these folders, or into any folder and pass --data FOLDER"
    )


def _in_folder(folder: Path) -> DataSources:
    return DataSources(str(_only_file(folder, ("train",))), str(_only_file(folder, HELD_OUT)))


def _only_file(folder: Path, stems: Sequence[str]) -> Path:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.stem.lower() in stems and path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if len(found) != 1:
        raise DataError.of(
            f"data folder {folder}: files {', '.join(f'{stem}.*' for stem in stems)}",
            [path.name for path in found],
            f"one file that ends in {', '.join(SUFFIXES)}",
        )
    return found[0]
