"""Thread-local modes: whether operators record, inference mode, anomaly mode, hooks on saved values."""
from __future__ import annotations

import functools
import inspect
import threading

__all__ = [
    "no_grad", "enable_grad", "set_grad_enabled", "is_grad_enabled", "inference_mode", "is_inference_mode_enabled",
    "detect_anomaly", "set_detect_anomaly", "is_anomaly_enabled", "saved_tensors_hooks",
]


class _State(threading.local):
    grad = True
    inference = False
    saved_hooks: tuple = ()  # innermost last; each is (pack, unpack)
    autocast: dict | None = None  # array class -> half dtype
    autocast_cache = True
    autocast_depth = 0

    def __init__(self):  # once in each thread
        self.casts: dict = {}  # weights already cast, while an autocast is open


state = _State()
# process-wide, because a backward may run in another thread
# None, "trace", "check" (for NaN), or, where anomaly mode is off and a recorder is there, "record", "tell" (no lines)
anomaly = None
recorder = None  # called with (node, operands, output arrays) of each operator that is recorded: look.record()
_asked = None  # anomaly mode alone


_lines = True  # whether the recorder wants the user's line of each operator


def _watch(asked, by) -> None:
    """Set anomaly mode and the recorder."""
    global anomaly, recorder, _asked
    _asked, recorder = asked, by
    anomaly = asked if by is None else asked or ("record" if _lines else "tell")


def set_recorder(function, lines=True) -> None:
    """Call `function` for every operator that is recorded from now on, None for nothing; without `lines` nothing is
    kept in the nodes for it."""
    global _lines
    _lines = lines
    _watch(_asked, function)


class _Mode:
    """A context manager that is also a decorator, for functions, generators and classes' methods."""

    def __call__(self, function):
        if inspect.isclass(function):
            raise TypeError(f"[{type(self).__name__}] decorate functions, not the class {function.__name__}")
        if inspect.isgeneratorfunction(function):
            @functools.wraps(function)
            def generate(*args, **kwargs):
                generator = function(*args, **kwargs)
                resume, value = generator.send, None
                while True:
                    try:
                        with self._clone():  # the mode holds inside the generator, not in its consumer
                            item = resume(value)
                    except StopIteration as stop:
                        return stop.value
                    try:
                        value = yield item
                        resume = generator.send
                    except GeneratorExit:
                        with self._clone():
                            generator.close()
                        raise
                    except BaseException as e:  # the consumer's throw() goes on into the generator
                        resume, value = generator.throw, e

            return generate

        @functools.wraps(function)
        def call(*args, **kwargs):
            with self._clone():
                return function(*args, **kwargs)

        return call

    def _clone(self):
        return type(self)()


class _GradMode(_Mode):
    _enabled: bool

    def __enter__(self):
        self._outer = state.grad
        state.grad = self._enabled

    def __exit__(self, *exc):
        state.grad = self._outer


class no_grad(_GradMode):
    """Operators record nothing: context manager and decorator, as torch.no_grad."""

    _enabled = False

    def __new__(cls, function=None):
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class enable_grad(_GradMode):
    """Operators record, also inside no_grad: context manager and decorator, as torch.enable_grad."""

    _enabled = True

    def __new__(cls, function=None):
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class set_grad_enabled(_GradMode):
    """Recording on or off, from the call on or for a `with` block, as torch.set_grad_enabled."""

    def __init__(self, mode: bool):
        self._before = state.grad
        self._enabled = state.grad = bool(mode)

    def __enter__(self):
        self._outer = self._before
        state.grad = self._enabled

    def __call__(self, function):
        state.grad = self._before  # as a decorator it acts inside the function only
        return super().__call__(function)

    def _clone(self):
        clone = object.__new__(set_grad_enabled)
        clone._before, clone._enabled = state.grad, self._enabled
        return clone


def is_grad_enabled() -> bool:
    """Whether operators record now."""
    return state.grad


class inference_mode(_Mode):
    """No recording, and tensors made inside can never join a graph: as torch.inference_mode."""

    def __new__(cls, mode=True):
        made = super().__new__(cls)
        if callable(mode) and not isinstance(mode, bool):
            made._mode = True
            return made(mode)
        return made

    def __init__(self, mode=True):
        self._mode = bool(mode)

    def _clone(self):
        return inference_mode(self._mode)

    def __enter__(self):
        self._outer = (state.grad, state.inference)
        state.inference = self._mode
        state.grad = not self._mode  # inference_mode(False) records again, as in PyTorch

    def __exit__(self, *exc):
        state.grad, state.inference = self._outer


def is_inference_mode_enabled() -> bool:
    """Whether inference mode is on in this thread."""
    return state.inference


class saved_tensors_hooks:
    """Inside, every value saved for backward goes through `pack(tensor)`, and back through `unpack(packed)`.

    As torch.autograd.graph.saved_tensors_hooks; checkpointing is built on it.
    """

    def __init__(self, pack_hook, unpack_hook):
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self):
        state.saved_hooks += ((self.pack_hook, self.unpack_hook),)
        return self

    def __exit__(self, *exc):
        state.saved_hooks = state.saved_hooks[:-1]


class set_detect_anomaly:
    """Anomaly mode on or off, from the call on or for a `with` block, as torch.autograd.set_detect_anomaly."""

    def __init__(self, mode: bool, check_nan: bool = True):
        self._outer = _asked
        _watch("check" if mode and check_nan else "trace" if mode else None, recorder)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        _watch(self._outer, recorder)


class detect_anomaly(set_detect_anomaly):
    """Records the user's line of every operator and raises where the first NaN appears in a backward.

    As torch.autograd.detect_anomaly, which also names the operator and shapes here. Slow; for finding an error.
    """

    def __init__(self, check_nan: bool = True):
        self._check_nan = check_nan

    def __enter__(self):
        super().__init__(True, self._check_nan)  # not before: a detect_anomaly() that nobody enters changes nothing
        return self


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on."""
    return _asked is not None
