"""Publishing as a user does it."""

import json
from pathlib import Path

import pytest

from commands import airlora, refused
from delivery import make_stream


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    assert airlora("repo", "init", tmp_path / "site", "--json").returncode == 0
    return tmp_path / "site"


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    (tmp_path / "adapter.airs").write_bytes(make_stream())
    return tmp_path / "adapter.airs"


def value(*arguments: object) -> dict[str, object]:
    result = airlora(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_run_is_packed_measured_and_published(run: Path, repo: Path, tiny_model: Path) -> None:
    found = value("publish", run, repo, "--model", tiny_model)
    assert (found["version"], found["tenant"]) == (1, None)
    report = value("repo", "verify", repo)
    (manifest,) = report["releases"].values()
    assert manifest["stream"]["total_bytes"] == found["payload_bytes"]
    assert manifest["stream"]["num_segments"] == found["num_segments"]
    assert 1 <= len(manifest["cuts"]) <= 10
    last = manifest["cuts"][-1]
    assert last["num_bytes"] == found["payload_bytes"]
    # What was signed is what a user measures.
    streams = list((repo / "streams").iterdir())
    measured = value("evaluate", streams[0], "--data", _eval_of(run), "--model", tiny_model)
    assert measured["accuracy"] == pytest.approx(last["accuracy"], abs=1e-4)


def _eval_of(run: Path) -> str:
    text = next(line for line in (run / "settings.toml").read_text().splitlines() if line.startswith("eval ="))
    return text.partition("=")[2].strip().strip('"')


def test_a_stream_is_published_unchanged(repo: Path, stream: Path) -> None:
    assert value("publish", stream, repo)["version"] == 1
    refused(airlora("publish", stream, repo), "already published as release 1")
    refused(airlora("publish", stream, repo, "--qat-steps", "3"), "packed already")
    shown = airlora("repo", "verify", repo).stdout
    assert "verified, 1 releases" in shown
    assert "not measured" in shown


def test_tenants_rotation_renewal_and_garbage(repo: Path, stream: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.airs"
    other.write_bytes(make_stream(1))
    refused(airlora("publish", stream, repo, "--tenant", "acme"), "acme", "repo tenant")
    value("repo", "tenant", repo, "acme")
    assert value("publish", stream, repo, "--tenant", "acme")["tenant"] == "acme"
    value("publish", other, repo)
    for role in ("root", "targets", "snapshot", "timestamp", "acme"):
        assert value("repo", "rotate", repo, "--role", role)["role"] == role
    refused(airlora("repo", "rotate", repo, "--role", "nobody"), "nobody")
    assert set(value("repo", "renew", repo)["expires"]) == {"root", "targets", "snapshot", "timestamp", "acme"}
    assert set(value("repo", "verify", repo)["releases"]) == {"", "acme"}
    assert value("repo", "gc", repo, "--keep", "0")["num_files"] > 0
    assert set(value("repo", "verify", repo)["releases"]) == {"", "acme"}


def test_bad_input_is_one_line(repo: Path, stream: Path, tmp_path: Path) -> None:
    refused(airlora("repo", "init", repo), "empty")
    refused(airlora("repo", "init", tmp_path / "new", "--keys", tmp_path / "new" / "keys"), "public")
    refused(airlora("repo", "init", tmp_path / "new", "--root-threshold", "9"), "threshold")
    refused(airlora("repo", "verify", tmp_path / "nothing"), "not a repository")
    refused(airlora("publish", stream, tmp_path / "nothing"), "not a repository")
    refused(airlora("publish", tmp_path / "nothing", repo), "nothing")
    refused(airlora("publish", stream, repo, "--keys", tmp_path / "elsewhere"), "targets keys", "elsewhere")
    refused(airlora("repo", "gc", repo, "--keep", "-1"), "keep = -1")
    assert not (tmp_path / "new").exists()
    damaged = tmp_path / "damaged.airs"
    damaged.write_bytes(stream.read_bytes()[:-1])
    refused(airlora("publish", damaged, repo), "truncated")


def test_a_repository_that_devices_would_refuse_exits_with_four(repo: Path, stream: Path) -> None:
    value("publish", stream, repo)
    path = repo / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":2', b'"version":9'))
    result = airlora("repo", "verify", repo)
    assert result.returncode == 4
    assert result.stderr.startswith("airlora: repository: ")
