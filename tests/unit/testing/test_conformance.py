"""The commands of the public conformance suite, on a repository of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airlora.delivery import ReportStore, ServerPlan, SignedRepository, current_manifest, make_app, publish_stream
from airlora.testing.conformance import main
from airlora.testing.local_server import serving
from delivery import STREAMS, make_repository


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[SignedRepository, str]]:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    with serving(make_app(ServerPlan(repository.folder, ReportStore(":memory:")))) as url:
        yield repository, url


def test_init_refresh_download(served: tuple[SignedRepository, str], tmp_path: Path) -> None:
    repository, url = served
    metadata, targets = tmp_path / "metadata", tmp_path / "targets"
    at = ["--metadata-dir", str(metadata), "--metadata-url", f"{url}/metadata"]
    assert main([*at, "init", str(repository.metadata / "1.root.json")]) == 0
    assert main([*at, "refresh"]) == 0
    assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= {p.name for p in metadata.iterdir()}
    get = ["--target-base-url", f"{url}/targets", "--target-dir", str(targets), "--target-name"]
    assert main([*at, *get, "latest.json", "download"]) == 0
    assert (targets / "latest.json").read_bytes() == current_manifest(repository).to_bytes()
    # What is held and right is not fetched again.
    assert main([*at, *get, "latest.json", "download"]) == 0


def test_what_goes_wrong_exits_with_one(
    served: tuple[SignedRepository, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, url = served
    at = ["--metadata-dir", str(tmp_path / "metadata"), "--metadata-url", f"{url}/metadata"]
    assert main([*at, "refresh"]) == 1
    assert main([*at, "init", str(tmp_path / "nothing")]) == 1
    (tmp_path / "bad").write_bytes(b"{}")
    assert main([*at, "init", str(tmp_path / "bad")]) == 1
    assert main([*at, "init", str(repository.metadata / "1.root.json")]) == 0
    get = ["--target-base-url", f"{url}/targets", "--target-dir", str(tmp_path / "t"), "--target-name", "other.json"]
    assert main([*at, *get, "download"]) == 1
    with repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    repository.write()
    assert main([*at, "refresh"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("airlora: ") for line in lines)
