"""Checkpointing: save a part's inputs instead of its activations, and run it again in backward.

As torch.utils.checkpoint with use_reentrant=False: it is built on hooks for saved values, so it nests, works with
autograd.grad, retain_graph and create_graph, and needs no wrapping of inputs.
"""
from __future__ import annotations

import contextlib

from ..autograd.modes import enable_grad, saved_tensors_hooks, state
from ..autograd.saved import SavedTensor
from ..backend import random
from ..tensor import Tensor, make

__all__ = ["checkpoint", "checkpoint_sequential", "CheckpointError"]


class CheckpointError(RuntimeError):
    """The second run of a checkpointed function saved other values than the first."""


class _Done(Exception):
    """The second run has produced all that backward needs."""


class _Handle:
    """Stands in the graph for one saved value."""

    __slots__ = ("frame", "number")

    def __init__(self, frame, number):
        self.frame, self.number = frame, number

    @property
    def shape(self):  # of the value, for who looks at a graph
        return self.frame.kinds[self.number][0]

    @property
    def dtype(self):
        return self.frame.kinds[self.number][1]


class _Frame:
    """One checkpointed call: how to run it again, and what a second run produced."""

    def __init__(self, function, args, kwargs, preserve_rng_state, check):
        self.function, self.check = function, check
        self.args = tuple(_keep(a) for a in args)
        self.kwargs = {name: _keep(v) for name, v in kwargs.items()}
        self.random = _random_states(args) if preserve_rng_state else {}
        self.autocast = state.autocast
        self.kinds: list[tuple] = []  # of each saved value; no handles, which refer to this
        self.values: dict[int, object] = {}

    def pack(self, tensor):
        self.kinds.append((tensor.shape, tensor.dtype))
        return _Handle(self, len(self.kinds) - 1)

    def unpack(self, handle):
        if handle.number not in self.values:
            self._run_again()
        return self.values.pop(handle.number)

    def _run_again(self):
        count = 0

        def capture(tensor):
            nonlocal count
            if count < len(self.kinds):
                shape, dtype = self.kinds[count]
                if self.check and (tensor.shape, tensor.dtype) != (shape, dtype):
                    raise CheckpointError(
                        f"[checkpoint] the recomputed value number {count} is {tensor.dtype.name} {tensor.shape}, was "
                        f"{dtype.name} {shape}: the function must do the same on every run"
                    )
                self.values[count] = tensor
            count += 1
            if count == len(self.kinds):
                raise _Done
            return None

        args = [_restore(a) for a in self.args]
        kwargs = {name: _restore(v) for name, v in self.kwargs.items()}
        hooks, state.saved_hooks = state.saved_hooks, ()
        with _with_states(self.random), _casting(self.autocast), contextlib.suppress(_Done):
            try:
                with enable_grad(), saved_tensors_hooks(capture, _not_here):
                    self.function(*args, **kwargs)
            finally:
                state.saved_hooks = hooks
        if count < len(self.kinds):
            raise CheckpointError(
                f"[checkpoint] the second run saved {count} values, the first {len(self.kinds)}: the function must "
                "do the same on every run"
            )


def _not_here(packed):
    raise CheckpointError("[checkpoint] a backward inside the second run of a checkpointed function is not possible")


def _keep(value):
    return (SavedTensor(value), value._req) if isinstance(value, Tensor) else value


def _restore(value):
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], SavedTensor):
        saved, requires_grad = value
        fresh = make(saved.unpack()._array)
        fresh._req = requires_grad
        return fresh
    return value


def _random_states(args):
    kinds = {"cpu"} | {str(a.device) for a in args if isinstance(a, Tensor)}
    return {kind: random.get_rng_state(kind) for kind in kinds}


@contextlib.contextmanager
def _with_states(states):
    before = {kind: random.get_rng_state(kind) for kind in states}
    for kind, s in states.items():
        random.set_rng_state(s, kind)
    try:
        yield
    finally:
        for kind, s in before.items():
            random.set_rng_state(s, kind)


@contextlib.contextmanager
def _casting(autocast):
    """The first run's autocast; what it casts for itself is dropped at the end."""
    outer, casts = state.autocast, state.casts
    state.autocast, state.casts = autocast, {}
    try:
        yield
    finally:
        state.autocast, state.casts = outer, casts


def checkpoint(
    function, *args, use_reentrant=False, preserve_rng_state=True, determinism_check="default", **kwargs
):
    """function(*args, **kwargs), whose activations are computed again in backward instead of being kept.

    Random numbers are replayed exactly unless preserve_rng_state is False. As torch.utils.checkpoint.checkpoint.

    Raises: NotImplementedError for use_reentrant=True; CheckpointError when the second run differs ("default" checks
    shapes and dtypes, "none" only the count).
    """
    if use_reentrant:
        raise NotImplementedError(
            "[checkpoint] use_reentrant=True is not there: the non-reentrant form does all it did")
    if determinism_check not in ("default", "none"):
        raise ValueError(f"[checkpoint] determinism_check must be 'default' or 'none', got {determinism_check!r}")
    if not state.grad:
        return function(*args, **kwargs)
    frame = _Frame(function, args, kwargs, preserve_rng_state, determinism_check == "default")
    with saved_tensors_hooks(frame.pack, frame.unpack):
        return function(*args, **kwargs)


def checkpoint_sequential(functions, segments, input, use_reentrant=False, **kwargs):
    """A Sequential (or list of functions) in `segments` checkpointed parts; the last runs plainly.

    As torch.utils.checkpoint.checkpoint_sequential.
    """
    functions = list(functions.children()) if hasattr(functions, "children") else list(functions)
    if not 1 <= segments <= max(1, len(functions)):
        raise ValueError(f"[checkpoint_sequential] segments must lie between 1 and {len(functions)}, got {segments}")
    size = len(functions) // segments

    def part(start, end):
        def run(x):
            for f in functions[start:end]:
                x = f(x)
            return x

        return run

    start = 0
    for _ in range(segments - 1):
        input = checkpoint(part(start, start + size), input, use_reentrant=use_reentrant, **kwargs)
        start += size
    return part(start, len(functions))(input)
