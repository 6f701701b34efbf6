"""A broadcast over real sockets, by the commands."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from airlora.delivery import publish_stream
from commands import airlora, refused
from delivery import STREAMS, cuts_of, make_repository


@pytest.fixture
def site(tmp_path: Path) -> Path:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0], cuts=cuts_of(STREAMS[0]))
    return repository.folder


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "239.255.77.7"])
def test_one_sends_and_two_listen(site: Path, tmp_path: Path, host: str) -> None:
    if host.startswith("239") and not multicast_works():
        pytest.skip("this machine has no route for groups of addresses")
    port, root = free_port(), site / "metadata" / "1.root.json"
    keys = ("--keys", tmp_path / "keys")
    address = f"{host}:{port}"
    command = [sys.executable, "-m", "airlora.cli"]
    wish = ["--root", str(root), "--once", "--deadline-s", "60", "--json"]
    listeners = [
        subprocess.Popen(
            [*command, "listen", address, "--state", str(tmp_path / f"state{number}"), *wish],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2 if host.startswith("239") else 1)
    ]
    sender = subprocess.Popen(
        [*command, "cast", str(site), address, "--rate-bps", "400000", "--keys", str(keys[1])],
        stderr=subprocess.DEVNULL,
    )
    try:
        for listener in listeners:
            out, _ = listener.communicate(timeout=80)
            found = json.loads(out)
            assert (listener.returncode, found["version"], found["complete"]) == (0, 1, True)
            assert found["bytes_fetched"] == len(STREAMS[0])
    finally:
        sender.kill()
        sender.communicate()
    status = json.loads(airlora("edge", "status", "--state", tmp_path / "state0", "--json").stdout)
    assert Path(status["path"]).read_bytes() == STREAMS[0]
    sent = airlora("cast", site, address, "--rounds", 1, "--rate-bps", 1e7, *keys, "--json")
    assert json.loads(sent.stdout)["num_rounds"] == 1


def multicast_works() -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("239.255.77.7", 9))
    except OSError:
        return False
    return True


def test_mistakes_are_one_line(site: Path, tmp_path: Path) -> None:
    state, root = ("--state", tmp_path / "state"), ("--root", site / "metadata" / "1.root.json")
    refused(airlora("cast", site, "nowhere"), "HOST:PORT")
    refused(airlora("cast", site, "127.0.0.1:99999"), "HOST:PORT")
    refused(airlora("cast", site, "127.0.0.1:9", "--rounds", 0, "--keys", tmp_path / "keys"), "rounds")
    refused(airlora("cast", tmp_path, "127.0.0.1:9"), "no repository")
    refused(airlora("listen", "127.0.0.1:9000", *state, "--once"), "--root")
    refused(airlora("listen", "127.0.0.1:9000", *state, "--root", tmp_path / "nothing", "--once"), "no such file")
    refused(airlora("listen", "192.0.2.1:9000", *state, *root, "--once"), "address")
    silent = airlora("listen", f"127.0.0.1:{free_port()}", *state, *root, "--once", "--stall-s", 1)
    assert silent.returncode == 3
    assert "nothing was heard" in silent.stderr
