"""Stop requests: what a signal does outside of training and in it, and what is left behind."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from harness.errors import Stopped
from harness.preemption import SIGNALS, StopRequest


def test_nothing_is_requested_at_first() -> None:
    with StopRequest() as stop, stop.deferred():
        assert not stop.requested


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_followed_at_once(number: signal.Signals) -> None:
    with pytest.raises(Stopped, match=f"stopped by {number.name}; nothing is lost"), StopRequest():
        os.kill(os.getpid(), number)
        pytest.fail("went on")


def test_libraries_that_pass_over_errors_do_not_pass_over_it() -> None:
    with pytest.raises(Stopped), StopRequest():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")


def test_swallowed_all_the_same_it_comes_again() -> None:
    with StopRequest() as stop:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # while it is followed: nothing new
        with pytest.raises(Stopped), stop.deferred():
            pass


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_in_training_is_noted_and_followed_at_its_end(number: signal.Signals) -> None:
    seen = []
    with pytest.raises(Stopped), StopRequest() as stop, stop.deferred():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        seen.append(stop.requested)
    assert seen == [number.name]


def test_a_failure_in_training_is_not_replaced() -> None:
    with pytest.raises(ZeroDivisionError), StopRequest() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


@pytest.mark.parametrize("number", SIGNALS)
def test_handler_of_before_is_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest():
        inside = signal.getsignal(number)
    assert (signal.getsignal(number), inside != before) == (before, True)


def test_handlers_are_put_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_within_a_destructor_is_neither_lost_nor_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python swallows what is raised there."""
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)

    class Slow:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGUSR2)

    with pytest.raises(Stopped), StopRequest() as stop:
        Slow()
        stop.check()
    assert not shown
