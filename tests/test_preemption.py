"""Stop requests: what a signal does, and what is left behind."""

from __future__ import annotations

import os
import signal

import pytest

from harness.preemption import SIGNALS, StopRequest


def test_nothing_is_requested_at_first() -> None:
    with StopRequest() as stop:
        assert not stop.requested


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_noted_and_does_nothing_else(number: signal.Signals) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signal_may_come_again(number: signal.Signals) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.requested


def test_second_interrupt_means_now() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


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
