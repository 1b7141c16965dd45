"""Ctrl-C and SIGTERM, noted and answered at the next good moment, so that nothing half done is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came. `exit_code` is the shell's: 130 or 143."""

    def __init__(self, signal_number: int, directory: str | Path | None) -> None:
        """Says what came and where the run was saved, if anywhere."""
        saved = f"saved in {directory}; --resume goes on from there" if directory else "not saved"
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}, {saved}")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list in place of acting on them; a second one acts at once.

    Only the main thread can take signals; in any other nothing changes.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted(number, None)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
