"""SIGTERM and SIGINT in mid-training: what was computed is saved, then the process ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SaveOnSignal:
    """While entered, a signal makes another thread save and end the process with 128 + its number.

    Another thread, because Python's own handlers wait for the operation in progress, which may be a backward pass of
    half a minute: longer than a scheduler waits between SIGTERM and SIGKILL. What is saved must not change meanwhile,
    so whoever changes it holds ``changing``; gradients in the making do not count.

    Args:
        save: Called with ``changing`` held; returns what to tell the user.
    """

    def __init__(self, save: Callable[[], str]):
        self.save, self.changing = save, threading.Lock()
        self._reader, self._writer = -1, -1

    def __enter__(self) -> SaveOnSignal:
        self._active = threading.current_thread() is threading.main_thread()  # only there are signals set
        if self._active:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._old = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
            self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            signal.set_wakeup_fd(self._old_fd)
            for number, handler in self._old.items():
                signal.signal(number, handler)
            os.write(self._writer, b"\0")
            self._thread.join()
            os.close(self._reader)
            os.close(self._writer)

    def _watch(self) -> None:
        while number := os.read(self._reader, 1)[0]:
            if number in SIGNALS:
                self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        code = 128 + number
        try:
            with self.changing:
                log.warning("%s: %s", number.name, self.save())
        except Exception as error:  # the process ends either way
            log.error("%s: nothing more was saved: %s", number.name, error)
        finally:
            logging.shutdown()
            os._exit(code)
