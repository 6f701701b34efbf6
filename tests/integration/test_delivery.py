"""Delivery from a repository to a device over sockets, by the commands."""

from __future__ import annotations

import http.server
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from airlora.delivery import KeyFolder, StateFolder, open_repository, publish_stream
from commands import airlora, refused
from delivery import FINGERPRINT, STREAMS, cuts_of, make_repository, make_stream


class Slow(http.server.SimpleHTTPRequestHandler):
    """Slow static server without ranges."""

    def copyfile(self, source: object, outputfile: object) -> None:
        while chunk := source.read(300):  # type: ignore[attr-defined]
            outputfile.write(chunk)  # type: ignore[attr-defined]
            outputfile.flush()  # type: ignore[attr-defined]
            time.sleep(0.03)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0], cuts=cuts_of(STREAMS[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Slow, directory=repository.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield repository.folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def value(*arguments: object) -> dict[str, object]:
    result = airlora(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


def run(url: str, state: Path, *more: object) -> tuple[object, ...]:
    return ("edge", "run", url, "--state", state, "--once", *more)


def test_a_device_follows_a_repository(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    state = tmp_path / "state"
    first = value(*run(url, state, "--root", folder / "metadata" / "1.root.json", "--base", FINGERPRINT))
    assert (first["version"], first["complete"], first["bytes_fetched"]) == (1, True, len(STREAMS[0]))
    (tmp_path / "new.airs").write_bytes(make_stream(5))
    assert value("publish", tmp_path / "new.airs", folder, "--keys", tmp_path / "keys")["version"] == 2
    second = value(*run(url, state, "--health", "true"))
    assert (second["version"], second["slot"]) == (2, "b")
    shown = value("edge", "status", "--state", state)
    assert (shown["version"], shown["newest_version"], set(shown["slots"])) == (2, 2, {"a", "b"})
    assert Path(str(shown["path"])).read_bytes() == make_stream(5)
    assert value("edge", "rollback", "--state", state) == {"version": 1, "slot": "a"}
    assert value(*run(url, state))["version"] == 1
    assert "rolled back" in airlora("edge", "history", "--state", state).stdout
    assert "slot" in airlora("edge", "status", "--state", state).stdout


def test_exit_codes_and_invalid_arguments(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    state = tmp_path / "state"
    refused(airlora(*run("ftp://example.org", state)), "url", "http")
    refused(airlora(*run(url, state, "--deadline-s", "0")), "deadline_s")
    refused(airlora(*run(url, state, "--max-bytes", "much")), "size")
    refused(airlora(*run(url, state, "--min-accuracy-gain", "2")), "min_accuracy_gain")
    refused(airlora(*run(url, state, "--root", tmp_path / "nothing")), "root", "no such file")
    refused(airlora(*run(url, state, "--device", "a b")), "device")
    refused(airlora(*run(url, state, "--ca", tmp_path / "nothing.pem")), "certificates", "no such file")
    refused(airlora(*run(url, state, "--token-file", tmp_path / "nothing")), "token", "no such file")
    refused(airlora(*run(url, state, "--health", "")), "health")
    refused(airlora("edge", "status", "--state", tmp_path / "nowhere"), "nowhere")
    nobody = airlora(*run("http://127.0.0.1:9", state, "--deadline-s", "2"))
    assert nobody.returncode == 3
    assert len([line for line in nobody.stderr.splitlines() if line.startswith("airlora: ")]) == 1
    assert airlora(*run(url, state)).returncode == 0
    refused(airlora("edge", "rollback", "--state", state), "no earlier adapter")
    (folder / "metadata" / "bundle.z").unlink()
    timestamp = folder / "metadata" / "timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version":2', b'"version":7'))
    untrusted = airlora(*run(url, state))
    assert untrusted.returncode == 4
    assert "the adapter from before this visit still runs" in untrusted.stdout
    assert airlora(*run(url, state, "--base", "f" * 64)).returncode in (2, 4)


def test_a_killed_device_continues_from_a_valid_state(site: tuple[Path, str], tmp_path: Path) -> None:
    _, url = site
    state, generator = tmp_path / "state", random.Random(0)
    command = [sys.executable, "-m", "airlora", *map(str, run(url, state, "--base", FINGERPRINT)), "--json"]
    held, kills = 0, 0
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Python starts in about half a second, and the stream takes about one second.
        time.sleep(generator.uniform(0.4, 1.2))
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        loaded = StateFolder(state).load()
        if loaded.running is not None:
            data, _ = StateFolder(state).read_slot(loaded.active)
            assert STREAMS[0].startswith(data)
            assert loaded.running.num_bytes >= held
            held = loaded.running.num_bytes
    assert kills > 0
    end = value(*run(url, state))
    assert end["complete"]
    assert end["bytes_reused"] >= held
    assert end["bytes_fetched"] + end["bytes_reused"] == len(STREAMS[0])


def test_a_running_agent_survives_transient_errors(site: tuple[Path, str], tmp_path: Path) -> None:
    repository, url = site
    state = tmp_path / "state"
    airlora(*run(url, state))
    folder = StateFolder(state)
    command = [sys.executable, "-m", "airlora.cli", "edge", "run", url, "--state", str(state), "--every-s", "0.3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # The timer bounds the test.
    watch = threading.Timer(60.0, process.kill)
    watch.start()
    lines = iter(process.stdout)  # type: ignore[arg-type]

    def wait_for(text: str) -> bool:
        return any(text in line for line in lines)

    try:
        assert wait_for("runs release 1")
        with folder.locked():
            assert wait_for("another agent uses this folder")
        folder.parts.rmdir()
        folder.parts.write_text("in the way")
        keys = KeyFolder(tmp_path / "keys", repository)
        publish_stream(open_repository(repository, keys), STREAMS[1], cuts=cuts_of(STREAMS[1]))
        assert wait_for("not a directory")
        folder.parts.unlink()
        folder.parts.mkdir()
        assert wait_for("runs release 2")
        assert process.poll() is None
    finally:
        watch.cancel()
        process.kill()
        process.communicate()
