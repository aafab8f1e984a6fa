"""What every training command shares outside the loop: its device, its exit status, and what Ctrl-C does."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading

from .. import environment
from ..backend import device as devices
from .settings import UserError


def guarded(program):
    """Makes `program(argv) -> int` a command: what the user can mend is one line on stderr and exit status 1."""

    @functools.wraps(program)
    def main(argv=None) -> int:
        try:
            with escaping(sys.stdout):
                return program(sys.argv[1:] if argv is None else list(argv))
        except UserError as error:
            message = str(error)
        except MemoryError as error:
            message = f"[train] out of memory ({error}): give a smaller --batch, or a smaller model"
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        print(message, file=sys.stderr)
        return 1

    return main


@contextlib.contextmanager
def escaping(stream):
    """Inside, characters that the stream's encoding lacks are written as escapes: a sample of a model is any bytes, and
    a run of hours must not end in a traceback because of them."""
    errors = getattr(stream, "errors", None)
    if errors not in ("strict", "surrogateescape") or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=errors)


def choose_device(name: str):
    """The device that `--device` asks for, announced on the first line. Raises UserError where it does not answer."""
    try:
        where = devices.default_device() if name == "auto" else devices.device(name)
        devices.backend_for(where)
    except RuntimeError as error:
        raise UserError(f"{error}\n(or train on the CPU with --device cpu)") from None
    hint = None if where.type == "cuda" else environment.gpu_hint()
    if hint:  # the first line: a GPU that lies idle is the first thing to know
        print(hint)
    print(f"training on {describe(where)}")
    return where


def describe(where) -> str:
    """A device in words."""
    if where.type == "cuda":
        return f"{where} ({devices.probe().name})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{'the CPU' if where.type == 'cpu' else 'the simulated device'}, {cores} cores"


class CtrlC:
    """Inside `with`, the first Ctrl-C (or SIGTERM) only sets `signal`, so that a step can end; a second one raises."""

    def __init__(self):
        self.signal = 0
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._noticed)
        return self

    def __exit__(self, *exc):
        for number, before in self._before.items():
            signal.signal(number, before)

    def _noticed(self, number, frame):
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        # print() may not be called again from inside itself, which is where a signal can arrive
        os.write(2, b"\nstopping after this step; once more to stop at once\n")
