"""Ctrl-C and SIGTERM, noted and answered at the next good moment, so that nothing half done is lost."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MOMENT = 0.05  # seconds: a callback has ended


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came. `exit_code` is the shell's: 130 or 143."""

    def __init__(self, signal_number: int, directory: str | Path | None, *, at_once: bool = False) -> None:
        """Says what came and where the run was saved, if anywhere; `at_once`: before the signal came."""
        if directory is None:
            saved = "not saved"
        elif at_once:
            saved = f"at once; --resume goes on from what was saved in {directory}"
        else:
            saved = f"saved in {directory}; --resume goes on from there"
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}, {saved}")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def interrupts_noted(directory: str | Path | None) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list in place of acting on them; a second one acts at once.

    One that nobody answered until the end is sent again, to whoever took them before. `directory` is where the run is
    saved, for the message.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted(number, directory, at_once=True)

    with _handled_by(note):
        yield received
    if received:
        signal.raise_signal(received[0])


def interrupts_raised(directory: str | Path) -> contextlib.AbstractContextManager[None]:
    """Raises Interrupted where SIGINT or SIGTERM comes; what is saved in `directory` is whole at any moment."""

    def act(number: int, _: object) -> None:
        raise Interrupted(number, directory, at_once=True)

    return _handled_by(act)


@contextlib.contextmanager
def lost_interrupts_sent_again() -> Iterator[None]:
    """Sends an interrupt again whose exception was ignored.

    Python ignores what a callback raises that nobody called: a finalizer, or the one that JAX has at every garbage
    collection. Of interrupts that came while JAX traced, one in seven ended there.
    """
    former = sys.unraisablehook

    def look(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return former(lost)
        number = getattr(lost.exc_value, "exit_code", 128 + signal.SIGINT) - 128
        # Not at once: what this hook raises is ignored too.
        again = threading.Timer(_MOMENT, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        again.start()

    sys.unraisablehook = look
    try:
        yield
    finally:
        sys.unraisablehook = former


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Only the main thread can take signals; in any other nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in old.items():
            signal.signal(number, former)
