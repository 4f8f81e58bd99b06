"""Ctrl-C, SIGTERM and SIGHUP are one path; a second signal ends at once."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_tune.core.signals import GracefulInterrupt, interrupt_on_signals

pytestmark = pytest.mark.usefixtures("signal_handlers")

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", ALL)
def test_each_signal_lets_the_block_clean_up(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    cleaned = []
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(number)
    assert cleaned == [number]
    if number != signal.SIGHUP:
        assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", ALL)
def test_each_signal_lets_a_loop_end_by_itself(number: signal.Signals) -> None:
    with GracefulInterrupt() as stop:
        assert not stop.wanted
        signal.raise_signal(number)
        assert stop.wanted


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_loop_at_once(
    first: signal.Signals, second: signal.Signals
) -> None:
    with pytest.raises(KeyboardInterrupt), GracefulInterrupt():
        signal.raise_signal(first)
        signal.raise_signal(second)


def test_the_second_sighup_of_one_closed_connection_is_no_second_wish() -> None:
    """The system and the shell each send one."""
    with GracefulInterrupt() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.wanted
    with interrupt_on_signals():
        try:
            signal.raise_signal(signal.SIGHUP)
        except KeyboardInterrupt:
            # What cleans up here is not cut short.
            signal.raise_signal(signal.SIGHUP)


def test_a_process_under_nohup_goes_on() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupt_on_signals(), GracefulInterrupt() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.wanted
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


_IN_A_TERMINAL = """
import fcntl, sys, termios
from pathlib import Path
from moonshine_tune.cli.console import lasting_stderr, say
from moonshine_tune.core.signals import GracefulInterrupt
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with lasting_stderr(), GracefulInterrupt() as stop:
    say("ready")
    while not stop.wanted:
        say("step")
    say("saved")
    print("a result", flush=True)
    Path(sys.argv[1]).write_text("everything")
"""


def test_what_writes_to_a_closed_terminal_still_saves(tmp_path: Path) -> None:
    """The connection ends: writing fails, and SIGHUP comes, in any order."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_A_TERMINAL, str(tmp_path / "saved")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        os.close(theirs)
        assert b"ready" in os.read(ours, 100)
        # No more is read: the process may wait for it when the terminal closes.
        os.close(ours)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "saved").read_text() == "everything"
