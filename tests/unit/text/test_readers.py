import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlora.errors import DataError, MissingDependencyError
from airlora.text import load_dataset

SAMPLES = [("a bad, dull film", 0), ("a good film", 1), ('she said "wow"', 1)]
RECORDS = [{"text": text, "label": label, "id": i} for i, (text, label) in enumerate(SAMPLES)]


def written(kind: str) -> bytes:
    match kind:
        case ".tsv":
            return b"label\ttext\tid\n" + b"".join(f"{y}\t{x}\t0\n".encode() for x, y in SAMPLES)
        case ".csv":
            quoted = ("".join(['"', x.replace('"', '""'), '"']) for x, _ in SAMPLES)
            return b"text,label\r\n" + b"".join(
                f"{x},{y}\r\n".encode() for x, (_, y) in zip(quoted, SAMPLES, strict=True)
            )
        case ".jsonl":
            return b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
        case ".json":
            return json.dumps(RECORDS, indent=1).encode()
        case _:
            arrow = pytest.importorskip("pyarrow")
            buffer = io.BytesIO()
            pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(RECORDS), buffer)
            return buffer.getvalue()


KINDS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")


def load(tmp_path: Path, name: str, data: bytes, **keywords: Any) -> Any:
    path = tmp_path / name
    path.write_bytes(data)
    return load_dataset(path, **keywords)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    dataset = load(tmp_path, f"data{kind.upper()}", written(kind))
    assert list(zip(dataset.texts, dataset.labels, strict=True)) == SAMPLES
    assert dataset.label_names == ("0", "1")


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_byte_order_mark_blank_lines_and_dos_line_ends(tmp_path: Path, kind: str) -> None:
    data = b"\xef\xbb\xbf" + written(kind).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n\r\n"
    assert load(tmp_path, f"data{kind}", data).texts == tuple(text for text, _ in SAMPLES)


def test_json_lines_may_have_the_suffix_json(tmp_path: Path) -> None:
    assert len(load(tmp_path, "data.json", written(".jsonl"))) == 3


def test_tsv_keeps_quotes_and_unicode_line_breaks(tmp_path: Path) -> None:
    text = 'an "open quote \u2028 and \x85 more '
    dataset = load(tmp_path, "data.tsv", f"text\tlabel\n{text}\tyes\n'x\tno\n".encode())
    assert dataset.texts == (text, "'x")
    assert dataset.label_names == ("no", "yes")


def test_csv_fields_may_contain_line_breaks_and_line_numbers_stay_right(tmp_path: Path) -> None:
    assert load(tmp_path, "a.csv", b'text,label\n"one\ntwo",0\nx,1\n').texts == ("one\ntwo", "x")
    with pytest.raises(DataError, match=r"b\.csv, line 4: 1 columns where the header has 2"):
        load(tmp_path, "b.csv", b'text,label\n"one\ntwo",0\nx\n')


@pytest.mark.parametrize("kind", KINDS)
def test_missing_column_is_named_with_the_columns_there_are(tmp_path: Path, kind: str) -> None:
    data = written(kind)
    with pytest.raises(DataError, match=r"column 'sentence' is missing; there are .*'text'"):
        load(tmp_path, f"data{kind}", data, text_column="sentence")
    with pytest.raises(DataError, match=r"column 'target' is missing; there are .*'label'"):
        load(tmp_path, f"data{kind}", data, label_column="target")


def test_named_columns_are_read(tmp_path: Path) -> None:
    data = b"sentence,target,text\nx,1,no\ny,0,no\n"
    assert load(tmp_path, "a.csv", data, text_column="sentence", label_column="target").texts == ("x", "y")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (".tsv", b"text\tlabel\tother\nx\tyes\tv\ny\tno\tw\n"),
        (".csv", b"other,text,label\nv,x,yes\nw,y,no\n"),
        (".jsonl", b'{"text": "x", "label": "yes", "other": "v"}\n{"other": "w", "text": "y", "label": "no"}\n'),
    ],
)
def test_a_second_text_is_read_beside_the_first(tmp_path: Path, kind: str, data: bytes) -> None:
    dataset = load(tmp_path, f"data{kind}", data, text_pair_column="other")
    assert (dataset.texts, dataset.pairs, dataset.labels) == (("x", "y"), ("v", "w"), (1, 0))
    assert dataset.subset([1]).pairs == ("w",)
    assert load(tmp_path, f"data{kind}", data).pairs is None
    with pytest.raises(DataError, match=r"column 'second' is missing"):
        load(tmp_path, f"data{kind}", data, text_pair_column="second")


def test_an_empty_second_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2, column other: the text is empty"):
        load(tmp_path, "a.tsv", b"text\tlabel\tother\nx\t1\t \n", text_pair_column="other")


def test_duplicate_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'text' occurs twice"):
        load(tmp_path, "a.tsv", b"text\tlabel\ttext\nx\t1\ty\n")


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n"])
def test_empty_file_is_refused(tmp_path: Path, kind: str, data: bytes) -> None:
    with pytest.raises(DataError, match=r"is empty|no samples"):
        load(tmp_path, f"data{kind}", data)


@pytest.mark.parametrize(
    ("name", "data"), [("a.tsv", b"label\ttext\n"), ("a.csv", b"label,text\n"), ("a.json", b"[]"), ("a.jsonl", b"\n")]
)
def test_file_without_samples_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(DataError, match="no samples; a header and one sample or more are needed"):
        load(tmp_path, name, data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tsv", b"text\tlabel\nx\t1\ny\n", "line 3: 1 columns where the header has 2"),
        ("a.tsv", b"text\tlabel\nx\ty\t1\n", "line 2: 3 columns where the header has 2"),
        ("a.tsv", b"text\tlabel\nx\t1\n\xe9\t0\n", "line 3: not UTF-8 text"),
        ("a.tsv", "text\tlabel\nx\t1\n".encode("utf-16"), "line 1: holds a NUL byte"),
        ("a.csv", b"text,label\nx,1\ny\0,0\n", "line 3: holds a NUL byte"),
        ("a.csv", b'text,label\nx,1\n"never closed,0\nz,1\n', "line 3: not valid CSV"),
        ("a.csv", b'text,label\n"x"y,1\n', "line 2: not valid CSV"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n"text"\n', "line 2 = 'text': allowed is a JSON object"),
        (
            "a.jsonl",
            b'{"text": "x", "label": 1}\n{"text": "x"}\n',
            "line 2: column 'label' is missing; there are 'text'",
        ),
        ("a.jsonl", b'{"a": ' * 100_000 + b"\n", "line 1: not valid JSON"),
        ("a.json", b'[{"text": "x", "label": 1}, 5]', "item 2 = 5: allowed is a JSON object"),
        ("a.json", b'[{"text": "x", ', "not valid JSON"),
        ("a.json", b'["\xff"]', "not valid JSON in UTF-8"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.parquet", b"PAR1 nothing PAR1", "not a readable Parquet file"),
    ],
)
def test_damaged_file_is_refused_with_its_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message):
        load(tmp_path, name, data)


def test_message_for_a_file_without_header_is_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'text' is missing; there are '1', 'a film") as caught:
        load(tmp_path, "a.tsv", b"1\ta film " + b"so long " * 100 + b"\n0\tbad\n")
    assert len(str(caught.value)) < 300


def test_null_in_parquet_is_refused_as_text(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    table = arrow.table({"text": ["x", None], "label": [0, 1]})
    pytest.importorskip("pyarrow.parquet").write_table(table, buffer)
    with pytest.raises(DataError, match=r"row 2, column text = None: allowed is text"):
        load(tmp_path, "a.parquet", buffer.getvalue())


def test_missing_file_folder_and_unknown_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: no such file"):
        load_dataset(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="is a folder"):
        load_dataset(tmp_path)
    with pytest.raises(
        DataError, match=r"allowed is a file that ends in \.tsv, \.csv, \.jsonl, \.json, \.parquet, or hf:"
    ):
        load_dataset(tmp_path / "data.xlsx")
    with pytest.raises(DataError, match="allowed is a file that ends in"):
        load_dataset("nul\0.tsv")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(tmp_path / ("x" * 300 + ".tsv"))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_harmless_or_a_data_error(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    raw = bytearray(written(kind))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    truncated = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        dataset = load(tmp_path, f"data{kind}", truncated, require_classes=1)
    except DataError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert len(dataset) >= 1


def test_missing_pyarrow_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"needs pyarrow: pip install 'airlora\[parquet\]'"):
        load(tmp_path, "a.parquet", b"x")


class HubTable:
    column_names = ("text", "label")
    features = {"label": SimpleNamespace(names=["bad", "good"]), "text": SimpleNamespace(dtype="string")}

    def __iter__(self) -> Iterator[dict[str, object]]:
        return iter([{"text": "x", "label": 1}, {"text": "y", "label": 0}])


class DatasetsError(Exception):
    pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replacement for the package `datasets` that records calls and returns or raises `outcome`."""
    state = SimpleNamespace(asked=[], outcome=HubTable())

    def load_hub(name: str, config: str | None, *, split: str) -> object:
        state.asked.append((name, config, split))
        if isinstance(state.outcome, Exception):
            raise state.outcome
        return state.outcome

    package, exceptions = ModuleType("datasets"), ModuleType("datasets.exceptions")
    package.load_dataset = load_hub  # type: ignore[attr-defined]
    exceptions.DatasetsError = DatasetsError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", exceptions)
    return state


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hf:own-er/na.me", ("own-er/na.me", None, "train")),
        ("hf:owner/name:validation", ("owner/name", None, "validation")),
        ("hf:owner/name:sst2", ("owner/name", "sst2", "train")),
        ("hf:owner/name:sst2:dev2", ("owner/name", "sst2", "dev2")),
        ("hf:owner/name::dev2", ("owner/name", None, "dev2")),
    ],
)
def test_hub_source_is_parsed(hub: SimpleNamespace, source: str, asked: tuple[str, str | None, str]) -> None:
    dataset = load_dataset(source)
    assert hub.asked == [asked]
    assert (dataset.texts, dataset.labels, dataset.label_names) == (("x", "y"), (1, 0), ("bad", "good"))


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:a/b/c", "hf:owner/name:a:b:c", "hf:owner/../x"])
def test_malformed_hub_source_is_refused(hub: SimpleNamespace, source: str) -> None:
    with pytest.raises(DataError, match="allowed is hf:owner/name"):
        load_dataset(source)
    assert hub.asked == []


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Unknown split"), DatasetsError("none")])
def test_unreachable_hub_is_reported(hub: SimpleNamespace, error: Exception) -> None:
    hub.outcome = error
    with pytest.raises(DataError, match=r"hf:owner/name: not found, or the Hugging Face Hub cannot be reached"):
        load_dataset("hf:owner/name")


def test_missing_column_on_the_hub_is_refused(hub: SimpleNamespace) -> None:
    with pytest.raises(DataError, match=r"hf:owner/name: column 'sentence' is missing; there are 'text', 'label'"):
        load_dataset("hf:owner/name", text_column="sentence")


def test_missing_datasets_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"needs datasets: pip install 'airlora\[hub\]'"):
        load_dataset("hf:owner/name")
