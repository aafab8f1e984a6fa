"""Work that Ctrl-C can leave at once: the emulator's C++ code does not look at Python's signals."""
from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading

__all__ = ["run"]

LOOK = 0.1  # seconds


def run(work):
    """`work()` on a thread of its own; its result, or its exception. Ctrl-C ends the process with status 130."""
    done: list[object] = []
    failed: list[BaseException] = []
    context = contextvars.copy_context()

    def body():
        try:
            done.append(context.run(work))
        except BaseException as e:  # handed to the caller, whatever it is
            failed.append(e)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK)  # the signal may arrive on the other thread, and does not wake this one then
    except KeyboardInterrupt:
        # the thread cannot be stopped, and Python would wait for the C++ code in it
        print("stopped", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(130)
    if failed:
        raise failed[0]
    return done[0]
