from collections.abc import Iterator

import pytest
import torch

from airlora.tasks import set_threads


@pytest.fixture(autouse=True)
def threads_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("environment", "num_threads", "expected"),
    [
        ("3", 0, 3),
        ("3,1", 0, 3),
        ("3", 2, 2),
        ("", 0, 4),
        ("many", 0, 4),
        ("0", 0, 4),
        ("-1", 0, 4),
        ("100000", 0, 4),
        ("99999999999", 0, 4),
        # int() refuses texts of more than 4,300 digits.
        ("9" * 5000, 0, 4),
    ],
)
def test_the_environment_sets_the_threads_that_the_settings_leave_open(
    environment: str, num_threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr("airlora.tasks.precision.available_threads", lambda: 4)
    set_threads(num_threads)
    assert torch.get_num_threads() == expected
