"""Array functions as work of a stream: called now for the shapes of their results, run for the values when it is time.

A call on a stream runs twice. Now, into scratch memory, so that the caller gets arrays of the right shapes and errors
are raised where they are made; what it wrote into its arguments is taken back. And when the stream comes to it, on the
memory of arguments and results, with whatever lies there then. The second run holds no array: memory that the program
freed may be somebody else's by then, as on a GPU. Functions that wait for the device themselves (`nonzero`, masks) make
the stream come to its end first and run once.
"""
from __future__ import annotations

import functools
import sys
import threading
import types

import numpy as np

from .. import streams as crossing
from . import array as arrays
from . import indexing, pool, streams
from .array import ndarray
from .streams import LOCK, local

_new = object.__new__


class Synchronizes(BaseException):
    """A function that is tried for its shapes waits for the device."""


class _Nobody:
    """The owner of an array that keeps no memory alive."""

    __slots__ = ("block", "ptr", "size")

    def __init__(self, block):
        self.block, self.size = block, block.nbytes
        self.ptr = block.__array_interface__["data"][0]


class _Run(threading.local):
    made = None  # (memory, block) of the results of a call that is tried
    scratch = None  # where they are while it is tried: {id of the scratch array: (it, memory, block)}
    placed = None  # memory of the results of a call that runs


run = _Run()


def issue(function, args, kwargs):
    """The call as work of the current stream."""
    if local.inside or not streams.active():
        return function(*args, **kwargs)
    with LOCK:
        queue = streams.current()
        _poison_freed()
        given: list = []
        args, kwargs = _staged(args, given), {k: _staged(v, given) for k, v in kwargs.items()}
        before = [(a._np, a._np.copy()) for a in given if a._np.flags.writeable]
        made, scratch = run.made, run.scratch = [], {}
        local.inside += 1
        try:
            result = function(*args, **kwargs)
        except Synchronizes:
            result = Synchronizes
        except (ArithmeticError, ValueError, IndexError):  # of the call, or of values that are not there yet
            if queue.capture is not None:
                raise
            result = Synchronizes
        finally:
            run.made = run.scratch = None
            local.inside -= 1
            for raw, held in before:
                if raw.tobytes() != held.tobytes():
                    raw[...] = held
        if result is Synchronizes:
            streams.wait_current()
            local.inside += 1
            try:
                return function(*args, **kwargs)
            finally:
                local.inside -= 1
        for raw, block, ptr in made:
            if streams.untouched(ptr):
                block.fill(1 if raw.dtype.kind == "b" else 255)
        _at_home(result, scratch)
        later = functools.partial(_again, function, _ghosts(args), {k: _ghosts(v) for k, v in kwargs.items()}, made)
        streams.put(queue, later, touches=[*(ptr for *_, ptr in made), *(a._owner.ptr for a in given)])
        return result


def _at_home(value, scratch):
    """Results of a tried call, moved to the memory that is theirs."""
    if type(value) is tuple or type(value) is list:
        for v in value:
            _at_home(v, scratch)
    while type(value) is ndarray:
        raw = owner = value._np
        while owner.base is not None:
            owner = owner.base
        found = scratch.get(id(owner))
        if found is not None:
            _, _, block = found
            offset = raw.__array_interface__["data"][0] - owner.__array_interface__["data"][0] if raw.size else 0
            value._np = np.ndarray(raw.shape, raw.dtype, block, offset, raw.strides)
        value = value._base


def enqueue(function, *args, stream=None, touches=None) -> None:
    """Work without results on a stream by its handle (the current one): at once where nothing is delayed. What it holds
    of arrays must be their memory (`_np`) or addresses; `touches` are the addresses of their blocks, None for any."""
    if local.inside or not streams.active():
        function(*args)
    else:
        with LOCK:
            _poison_freed()
            queue = streams.current() if stream is None else streams.ExternalStream(stream).queue
            streams.put(queue, functools.partial(function, *args), touches=touches)


def _staged(value, given):
    """An argument as the call may use it later: host arrays copied, iterators listed; `given` gets device arrays."""
    kind = type(value)
    if kind is ndarray:
        given.append(value)
    elif kind is list or kind is tuple:
        return kind([_staged(v, given) for v in value])
    elif isinstance(value, types.GeneratorType | map | zip):
        return [_staged(v, given) for v in value]
    elif isinstance(value, np.ndarray):
        return value.copy()
    return value


def _ghosts(value):
    kind = type(value)
    if kind is ndarray:
        return _ghost(value._np, None)
    if kind is list or kind is tuple:
        return kind([_ghosts(v) for v in value])
    return value


def _ghost(raw, block):
    made = _new(ndarray)
    made._np, made._base = raw, None
    made._owner = _Nobody(raw if block is None else block)
    return made


def _again(function, args, kwargs, made):
    outer, run.placed = run.placed, iter(made)
    try:
        function(*args, **kwargs)
    finally:
        run.placed = outer


# what the pool and the arrays ask while streams are in use

def place(shape, dtype):
    """The array that a call's result has already, when the call runs for its values; None for a new one."""
    if run.placed is not None:
        raw, block, _ = next(run.placed)
        if raw.shape != tuple(shape) or raw.dtype != dtype:
            raise RuntimeError(f"[simulated] a result of {raw.shape} {raw.dtype} became {shape} {dtype}: its shape "
                               "depends on values, and the function does not wait for the device")
        return _ghost(raw, block)
    if not local.inside and streams.active():
        raise RuntimeError("[simulated] memory is written outside of any stream's order")
    return None


def made_one(array) -> None:
    """An array was made: of a call that is tried it goes into scratch memory."""
    if run.made is not None:
        raw, owner = array._np, array._owner
        run.made.append((raw, owner.block, owner.ptr))
        array._np = np.empty_like(raw)
        array._np.ravel("K").view(np.uint8).fill(1 if raw.dtype.kind == "b" else 255)
        run.scratch[id(array._np)] = array._np, raw, owner.block


def waits() -> None:
    """The host is about to wait for the current stream."""
    if run.made is not None:
        raise Synchronizes
    if not local.inside:
        streams.wait_current()


def copies() -> None:
    """Host memory is about to be copied to the device: pageable, which a capture cannot hold."""
    queue = streams.current()
    if queue.capture is not None:
        streams.forbid_in_capture(queue)


def counts() -> bool:
    """Whether an event counts: a call that runs for its values was counted when it was made."""
    return run.placed is None


_freed: list = []


def arena():
    """The queue whose freed blocks an allocation may take: the current stream's."""
    return streams.current()


def busy() -> bool:
    return bool(streams._busy)


def freed(queue, block, ptr) -> None:
    """A block came back to the pool; its stream overwrites it when it comes there. Called by destructors: no locks."""
    if not local.inside and len(streams._alive):
        _freed.append((queue or streams.NULL, block, ptr))


def _poison_freed():
    while _freed:
        queue, block, ptr = _freed.pop()
        if ptr in pool.POOL._live:
            continue
        if streams.untouched(ptr):
            block.fill(255)
        elif queue.capture is None:
            streams.put(queue, functools.partial(block.fill, 255), touches=[ptr])


# the functions

CUBLAS = {"dot", "vdot", "inner", "tensordot", "matmul", "einsum", "convolve", "correlate"}
_READS = {  # they read for the host, or touch no memory
    "get", "set", "item", "tolist", "tobytes", "dumps", "dump", "view", "transpose", "squeeze", "swapaxes", "diagonal",
    "reduced_view",
}
_ORDINARY = {
    "__init__", "__new__", "__len__", "__iter__", "__bool__", "__int__", "__float__", "__complex__", "__index__",
    "__repr__", "__str__", "__format__", "__array__", "__reduce__", "__hash__", "__array_function__", "__array_ufunc__",
}
_HOST = {"asnumpy", "get_array_module", "get_default_memory_pool", "size", "shape", "ndim", "real", "imag"}


def delayed(function, library=None):
    """`function` as work of the current stream; `library` is refused while the stream records a graph."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if library is not None and not local.inside and streams.current().capture is not None:
            raise NotImplementedError(f"calling {library} API during stream capture is currently unsupported")
        return issue(function, args, kwargs)

    return call


def _getitem(delayed_one):
    def getitem(self, index):
        return indexing.getitem(self, index) if indexing.is_basic(index) else delayed_one(self, index)

    return getitem


_originals: list[tuple] = []


def _replace(holder, name, made):
    _originals.append((holder, name, vars(holder)[name]))
    setattr(holder, name, made)


def install() -> None:
    """Make every function of the device work of a stream; done with the first stream and undone when the last one is
    gone, so that programs without one pay nothing."""
    with LOCK:
        if _originals:
            return
        from . import functions, namespace, ufuncs
        from .emulator import module

        arrays.side = pool.side = sys.modules[__name__]
        crossing.several = True
        spaces = [(namespace.xp, None), (namespace.special, None), (namespace.xp.fft, "cuFFT"),
                  (namespace.xp.linalg, "cuSOLVER")]
        for space, owner in spaces:
            for name, value in list(vars(space).items()):
                if isinstance(value, types.FunctionType) and name not in _HOST | functions.HOST_FUNCTIONS:
                    library = "cuBLAS" if name in CUBLAS else None if name in ("norm", "cross", "trace") else owner
                    _replace(space, name, delayed(value, library))
        for name in ("__call__", "outer", "at", "reduce", "accumulate", "reduceat"):
            _replace(ufuncs.ufunc, name, delayed(vars(ufuncs.ufunc)[name]))
        for name, value in list(vars(ndarray).items()):
            if name == "__getitem__":
                _replace(ndarray, name, _getitem(delayed(value)))
            elif isinstance(value, types.FunctionType) and name not in _READS | _ORDINARY:
                library = "cuBLAS" if name in ("dot", "__matmul__", "__rmatmul__") else None
                _replace(ndarray, name, delayed(value, library))
        launch = module.Function.launch

        def ordered(self, grid, block, args, *rest, **named):
            given = [a for a in args if type(a) is ndarray]
            tables = any(a.dtype == np.int64 for a in given)  # they may hold addresses of other arrays
            enqueue(functools.partial(launch, self, grid, block, _ghosts(list(args)), *rest, **named),
                    touches=None if tables else [a._owner.ptr for a in given])

        _replace(module.Function, "launch", ordered)


def uninstall() -> None:
    """The last stream is gone and no work is left: functions run at once again."""
    with LOCK:
        if len(streams._alive) or not _originals:
            return
        _freed.clear()
        while _originals:
            holder, name, value = _originals.pop()
            setattr(holder, name, value)
        arrays.side = pool.side = None
        crossing.forget()
