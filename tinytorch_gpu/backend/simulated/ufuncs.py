"""`ufunc` of the simulated device: CuPy's type loops, keywords and methods, NumPy's and SciPy's arithmetic.

The loop is chosen as CuPy chooses it (the first of the table's loops that every operand casts to; a Python scalar is
weak unless its kind is above every array's), then computed by NumPy in the loop's types. bfloat16 has a loop of its own
(`bf` in the table, read from the `types` of CuPy's ufuncs with ml_dtypes installed) in most ufuncs and becomes float32
in the others.
"""

from __future__ import annotations

import numpy as np

from .array import SCALARS, empty_raw, ndarray, unsupported
from .indexing import prepare
from .pool import count
from .table import BFLOAT16, parse_loop

_WEAK = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(float), complex: np.dtype(complex)}
_KIND_SCORE = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 2, "V": 2}
# atomicAdd and atomicMax exist for these (CuPy's `_scatter_op_single`); its mask form takes every dtype
_SCATTER_DTYPES = {
    "add": ("int32", "float16", "float32", "float64", "uint32", "uint64"),
    "max": ("int32", "float32", "float64", "uint32", "uint64"),
    "min": ("int32", "float32", "float64", "uint32", "uint64"),
}
_QUIET = "bui"  # kinds whose arithmetic raises no floating point warning in NumPy
_DIVIDES = {"cupy_true_divide", "cupy_floor_divide", "cupy_remainder", "cupy_divmod", "cupy_fmod", "cupy_power"}


class Loop:
    __slots__ = ("direct", "error", "inputs", "outputs", "quiet", "work")

    def __init__(self, inputs, outputs, error):
        self.inputs = inputs
        self.outputs = outputs
        self.error = error
        self.work = inputs
        self.direct = False
        self.quiet = False


class ufunc:
    """As `cupy.ufunc`."""

    def __init__(self, public: str, row: dict, function):
        self.__name__ = self.name = row["name"]
        self.public = public
        self.nin, self.nout = row["nin"], row["nout"]
        self.nargs = self.nin + self.nout
        self._function = function
        self._is_ufunc = isinstance(function, np.ufunc)
        errors = row.get("errors", {})
        self._loops = [Loop(*parse_loop(t), errors.get(t)) for t in row["loops"]]
        out_loops = row.get("out_loops")
        self._out_loops = [Loop(*parse_loop(t), None) for t in out_loops] if out_loops else self._loops
        self._casting = row.get("casting", "same_kind")
        self._scatter = row.get("scatter")
        self._cache: dict = {}

    def __repr__(self):
        return f"<ufunc '{self.name}'>"

    # which loop
    def _pick(self, dtypes, weaks) -> Loop:
        """The rule of CuPy's `_guess_routine_from_in_types`."""
        scores = [_KIND_SCORE[d.kind] for d, w in zip(dtypes, weaks, strict=True) if not w]
        weak_scores = [_KIND_SCORE[d.kind] for d, w in zip(dtypes, weaks, strict=True) if w]
        if not (scores and weak_scores and max(scores) >= max(weak_scores)):
            weaks = (None,) * len(dtypes)
        for loop in self._loops:
            for have, want, weak in zip(dtypes, loop.inputs, weaks, strict=True):
                if not np.can_cast(have, want) and (not weak or np.result_type(weak(0), want) != want):
                    break
            else:
                return self._checked(loop)
        raise TypeError(f"Wrong type ({tuple(dtypes)}) of arguments for {self.name}")

    def _checked(self, loop: Loop) -> Loop:
        if loop.error is not None:
            raise TypeError(loop.error)
        return loop

    def _natural(self, loop: Loop, dtypes, weaks) -> bool:
        """NumPy, asked with the same operands, answers in the loop's output type: no cast is needed."""
        if not self._is_ufunc:
            return False
        samples = [weak(1) if weak else np.ones((1,), d) for d, weak in zip(dtypes, weaks, strict=True)]
        try:
            with np.errstate(all="ignore"):
                result = self._function(*samples)
        except (TypeError, OverflowError):
            return False
        results = result if isinstance(result, tuple) else (result,)
        return tuple(r.dtype for r in results) == loop.outputs

    def _prepared(self, picked: Loop, dtypes, weaks) -> Loop:
        loop = Loop(picked.inputs, picked.outputs, None)
        loop.direct = self._natural(loop, dtypes, weaks)
        loop.quiet = all(d.kind in _QUIET for d in loop.inputs) and self.name not in _DIVIDES
        if BFLOAT16 in loop.inputs:
            # float32 holds every bfloat16: where NumPy or SciPy has no loop for it, compute there and round once
            try:
                with np.errstate(all="ignore"):
                    self._function(*(np.ones((1,), d) for d in loop.inputs))
            except TypeError:
                loop.work = tuple(np.dtype(np.float32) if d == BFLOAT16 else d for d in loop.inputs)
        return loop

    def _loop_to(self, dtype) -> Loop:
        """`dtype=` names the type of the outputs; the operands are cast to that loop's inputs."""
        loop = self._cache.get(dtype)
        if loop is None:
            for picked in self._out_loops:
                if all(d == dtype for d in picked.outputs):
                    loop = self._prepared(self._checked(picked), picked.inputs, (None,) * self.nin)
                    loop.direct = False
                    self._cache[dtype] = loop
                    break
            else:
                raise TypeError(f"Wrong type ({dtype}) of arguments for {self.name}")
        return loop

    def _loop_for(self, args, dtype) -> Loop:
        if dtype is not None:
            return self._loop_to(np.dtype(dtype))
        key = tuple([a._np.dtype.num if type(a) is ndarray else scalar_key(a) for a in args])
        loop = self._cache.get(key)
        if loop is None:
            weaks = [k if isinstance(k, type) else None for k in key]
            dtypes = [_WEAK[w] if w else a.dtype for a, w in zip(args, weaks, strict=True)]
            loop = self._cache[key] = self._prepared(self._pick(dtypes, weaks), dtypes, weaks)
        return loop

    # calls
    def __call__(self, *args, **kwargs):
        out = kwargs.pop("out", None)
        dtype = kwargs.pop("dtype", None)
        casting = kwargs.pop("casting", self._casting)
        if kwargs:
            raise TypeError(f"Wrong arguments {kwargs}")
        nin = self.nin
        if not nin <= len(args) <= self.nargs:
            raise TypeError(
                f"Wrong number of arguments for {self.name!r}. It must be either {nin} or {self.nargs} (with outputs), "
                f"but given {len(args)}."
            )
        outs = args[nin:]
        if out is not None:
            if outs:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            outs = out if isinstance(out, tuple) else (out,)
            if len(outs) != self.nout:
                raise ValueError("The 'out' tuple must have exactly one entry per ufunc output")
        args = args[:nin]
        for a in args:
            if type(a) is not ndarray and not isinstance(a, SCALARS):
                raise unsupported(a)
        return self._run(args, outs, dtype, casting)

    def _run(self, args, outs=(), dtype=None, casting="same_kind"):
        """The call with checked operands: arrays and scalars only."""
        if not outs and dtype is None and self.nout == 1:
            return self._run_plain(args)
        loop = self._loop_for(args, dtype)
        raws = [a._np if type(a) is ndarray else a for a in args]
        shape = broadcast_shape(raws)
        results = []
        for i, out_dtype in enumerate(loop.outputs):
            target = outs[i] if i < len(outs) else None
            if target is None:
                target = empty_raw(shape, out_dtype)
            else:
                check_out(target, shape, out_dtype, casting, raws)
            results.append(target)
        if loop.quiet:
            self._compute(loop, raws, results, outs)
        else:
            with np.errstate(all="ignore"):
                self._compute(loop, raws, results, outs)
        return results[0] if self.nout == 1 else tuple(results)

    def _run_plain(self, args):
        """The same without `out=` and `dtype=`: what operators call, kept short."""
        raws = []
        key = []
        shape = None
        for a in args:
            if type(a) is ndarray:
                a = a._np
                key.append(a.dtype.num)
                if shape is None:
                    shape = a.shape
                elif a.shape != shape:
                    shape = np.broadcast(*raws, a).shape
            else:
                key.append(scalar_key(a))
            raws.append(a)
        loop = self._cache.get(tuple(key)) or self._loop_for(args, None)
        result = empty_raw(shape or (), loop.outputs[0])
        if loop.quiet:
            self._compute(loop, raws, (result,), ())
        elif loop.direct:
            with np.errstate(all="ignore"):
                self._function(*raws, out=result._np)
        else:
            with np.errstate(all="ignore"):
                self._compute(loop, raws, (result,), ())
        return result

    def _compute(self, loop, raws, results, outs):
        if loop.direct and not (outs and any(r.dtype != d for r, d in zip(results, loop.outputs, strict=True))):
            self._function(*raws, out=tuple([r._np for r in results]))
            return
        if not loop.direct:
            raws = [
                r.astype(d, copy=False) if isinstance(r, (np.ndarray, np.generic)) else np.asarray(r, d)
                for r, d in zip(raws, loop.work, strict=True)
            ]
        values = self._function(*raws)
        values = values if self.nout > 1 else (values,)
        for target, value, dtype in zip(results, values, loop.outputs, strict=True):
            # rounded to the loop's own output type first, then to whatever `out` is
            np.copyto(target._np, np.asarray(value).astype(dtype, copy=False), casting="unsafe")

    # methods
    def outer(self, A, B, **kwargs):
        for a in (A, B):
            if type(a) is not ndarray:
                raise unsupported(a)
        return self(A.reshape(A.shape + (1,) * B.ndim), B.reshape((1,) * A.ndim + B.shape), **kwargs)

    def at(self, a, indices, b=None):
        if self._scatter is None:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        scatter(a, indices, b, self._scatter)

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.name == "cupy_add":
            return array.sum(axis, dtype, out, keepdims)
        if self.name == "cupy_multiply":
            return array.prod(axis, dtype, out, keepdims)
        raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")

    def accumulate(self, array, axis=0, dtype=None, out=None):
        if self.name == "cupy_add":
            return array.cumsum(axis, dtype, out)
        if self.name == "cupy_multiply":
            return array.cumprod(axis, dtype, out)
        raise NotImplementedError(f"`{self.name}.accumulate` is not supported yet")

    def reduceat(self, array, indices, axis=0, dtype=None, out=None):
        if self.name != "cupy_add":
            raise NotImplementedError(f"`{self.name}.reduceat` is not supported yet")
        if type(indices) is not ndarray:
            raise unsupported(indices)
        value = np.add.reduceat(array._np, indices._np, axis, dtype)
        if out is None:
            out = empty_raw(value.shape, value.dtype)
        out._np[...] = value
        return out


def scalar_key(value):
    """The type of a Python scalar (weak), or the dtype's number of a NumPy scalar (as an array's)."""
    kind = type(value)
    if kind in _WEAK:
        return kind
    if isinstance(value, np.generic):
        return value.dtype.num
    for base in (bool, int, float, complex):  # subclasses, enumerations
        if isinstance(value, base):
            return base
    raise unsupported(value)


def broadcast_shape(raws) -> tuple:
    shape = ()
    first = True
    for r in raws:
        if isinstance(r, np.ndarray):
            if first:
                shape, first = r.shape, False
            elif r.shape != shape:
                return np.broadcast_shapes(*[r.shape for r in raws if isinstance(r, np.ndarray)])
    return shape


def check_out(out, shape, dtype, casting, raws) -> None:
    if type(out) is not ndarray:
        raise unsupported(out)
    if out.shape != shape:
        raise ValueError(f"Out shape is mismatched: out {out.shape}, operands {shape}")
    if not np.can_cast(dtype, out.dtype, casting):
        raise TypeError(
            f"output (typecode '{dtype.char}') could not be coerced to provided output parameter "
            f"(typecode '{out.dtype.char}') according to the casting rule \"{casting}\""
        )


_SCATTER_UFUNC = {
    "add": np.add, "sub": np.subtract, "max": np.maximum, "min": np.minimum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}


def scatter(a: ndarray, indices, value, op: str) -> None:
    """`a[indices] op= value` with repeated indices, as CuPy's atomics: few dtypes, the value cast to a's."""
    if type(value) is not ndarray:
        if not isinstance(value, (*SCALARS, list)):
            raise unsupported(value)
        if not isinstance(value, SCALARS):
            count("host_to_device")
        value = np.asarray(value, a.dtype)
    else:
        value = value._np.astype(a.dtype, copy=False)
    index = prepare(a._np, indices)
    arrays = [i for i in index if isinstance(i, np.ndarray)]
    if any(i.dtype.kind != "b" for i in arrays):
        allowed = _SCATTER_DTYPES.get(op, ("int32", "uint32", "uint64", "int64"))
        if a.dtype.name not in allowed:
            raise TypeError(f"scatter_{op} only supports {', '.join(allowed)} as data type")
    with np.errstate(all="ignore"):
        _SCATTER_UFUNC[op].at(a._np, index, value)
