"""Signals that end a command: they unwind it, so that it says which file it left, as Ctrl-C does."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

__all__: list[str] = []

_HANDLED = ("SIGTERM", "SIGHUP", "SIGXCPU")


class Stopped(BaseException):
    """A signal asks the command to end.

    Attributes
    ----------
    code : int
        The exit code: 128 + the number of the signal, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Raise Stopped for a signal inside the ``with`` block, where its action is the default one."""
    handled: list[int] = []

    def stop(number: int, _: Any) -> NoReturn:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)  # a second signal must not interrupt the unwinding
        raise Stopped(number)

    if threading.current_thread() is threading.main_thread():  # the others cannot set handlers
        for name in _HANDLED:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, stop)
                handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
