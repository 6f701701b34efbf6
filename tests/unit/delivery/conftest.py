"""A device and a repository with one release."""

from __future__ import annotations

from pathlib import Path

import pytest

from airlora.delivery import SignedRepository, StateFolder, publish_stream
from delivery import STREAMS, Device, cuts_of, make_repository


@pytest.fixture
def repository(tmp_path: Path) -> SignedRepository:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0], cuts=cuts_of(STREAMS[0]))
    return repository


@pytest.fixture
def device(tmp_path: Path, repository: SignedRepository) -> Device:
    return Device(StateFolder(tmp_path / "state"), repository)
