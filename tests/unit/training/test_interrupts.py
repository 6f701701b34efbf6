import os
import pickle
import signal
import threading

import pytest

from airlora.training import Interrupted, InterruptHandler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_stored_and_a_second_one_has_its_usual_effect(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with InterruptHandler() as interrupts:
        assert interrupts.received is None
        os.kill(os.getpid(), number)
        assert interrupts.received == number
        # A second one is the user's last word.
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_the_exit_code_is_that_of_shells() -> None:
    assert Interrupted("saved", signal.SIGTERM).exit_code == 143


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with InterruptHandler() as interrupts:
            seen.append(interrupts.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(signal.SIGINT) == before


def test_an_interruption_reaches_another_process_with_its_exit_code() -> None:
    again = pickle.loads(pickle.dumps(Interrupted("saved", signal.SIGTERM)))  # noqa: S301 (our own bytes)
    assert (type(again), str(again), again.exit_code) == (Interrupted, "saved", 143)
