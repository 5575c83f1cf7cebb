"""Signals that end a run in order."""

from __future__ import annotations

import os
import signal

import pytest

from sonolora.cli.stop_signal import StopSignal

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def _nothing_is_ignored():
    """As in a shell's foreground, though the tests may run in its background or under `nohup`."""
    numbers = [getattr(signal, name) for name in NAMES]
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SIGHUP"])
def test_the_first_signal_asks_a_run_to_stop_and_the_second_interrupts(name, capsys):
    number, before = getattr(signal, name), signal.getsignal(getattr(signal, name))
    with StopSignal().installed() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="not on Windows")
def test_a_closing_terminal_may_say_so_twice():
    with StopSignal().installed() as stop:
        assert not stop()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_before_a_run_looks_for_it_the_first_signal_interrupts():
    with StopSignal().installed(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="not on Windows")
def test_what_the_caller_ignores_stays_ignored():
    """As with `nohup sonolora train ... &`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal().installed() as stop:
            assert not stop()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
