"""The kernels of the library against float64 formulas, and the `__global__` names that each case covers.

A case is `case(bench, dtype)`: makes inputs with `bench.put`, runs launchers of `tinytorch_gpu.backend.kernel_*`, and
compares with `bench.same(result, float64 reference)`. Every `__global__` of kernels/ must be covered by a line of
CASES, or the suite fails. Sizes: around the 8 elements of a thread and the 2048 of a block, odd ones, unaligned
starts, rows of less and more than a warp, of no multiple of 32, of several trips of a whole block.
"""
from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import scipy.special

from tinytorch_gpu.backend import errors, random
from tinytorch_gpu.backend import kernel_columns as sums
from tinytorch_gpu.backend import kernel_cross_entropy as entropy
from tinytorch_gpu.backend import kernel_elementwise as elementwise
from tinytorch_gpu.backend import kernel_embedding as embedding
from tinytorch_gpu.backend import kernel_multi_tensor as multi
from tinytorch_gpu.backend import kernel_rotary as rotary
from tinytorch_gpu.backend import kernel_rows as rows
from tinytorch_gpu.backend.device import CPU

SIZES = ((1, 0), (7, 0), (8, 1), (9, 0), (255, 3), (2048, 0), (2049, 1), (4101, 0))  # (elements, offset of the start)
WIDTHS = (1, 3, 8, 31, 64, 100, 257, 1024, 2051, 2560)  # columns
F32 = np.dtype(np.float32)


class Bench:
    """Puts arrays on the device and compares what comes back."""

    def __init__(self, backend, rng):
        self.backend, self.rng, self.compared = backend, rng, 0

    def put(self, array, offset=0):
        """The array on the device, its first element `offset` elements behind an aligned address."""
        array = np.asarray(array)
        padded = np.concatenate([np.zeros(offset, array.dtype), array.reshape(-1)])
        return self.backend.from_host(padded)[offset:].reshape(array.shape)

    def draw(self, shape, dtype, offset=0, scale=1.0):
        """(device array, float64 values) of normal numbers, rounded to the dtype first."""
        host = (self.rng.standard_normal(shape) * scale).astype(dtype)
        return self.put(host, offset), host.astype(np.float64)

    def same(self, got, want, what, scale=1.0, terms=1):
        """Half a unit of the result's dtype for the rounding, and 4 units of float32 of `scale` for the arithmetic,
        times the root of the number of terms that were added (rounding errors of a sum grow like that)."""
        assert got is not None, f"{what}: the launcher refused the arrays"
        host = self.backend.to_host(got)
        assert host.shape == np.shape(want), f"{what}: shape {host.shape}, expected {np.shape(want)}"
        limits = ml_dtypes.finfo(host.dtype)
        wide = host.astype(np.float64)
        with np.errstate(invalid="ignore"):
            room = 0.502 * float(limits.eps) * np.abs(want) + 4 * 2.0**-23 * scale * math.sqrt(terms)
            room = room + float(limits.smallest_subnormal)
            apart = np.abs(wide - want)
            # an infinite expected value would make its own room infinite
            good = (np.isfinite(want) & (apart <= room)) | (np.isnan(wide) & np.isnan(want)) | (wide == want)
        if not good.all():
            worst = np.unravel_index(np.argmax(np.where(good, -1, np.nan_to_num(apart, nan=1e30))), good.shape)
            allowed = np.broadcast_to(room, good.shape)[worst]
            raise AssertionError(f"{what}: {(~good).sum()} of {good.size} are wrong, the worst at {worst}: got "
                                 f"{wide[worst]!r}, expected {want[worst]!r} +- {allowed}")
        self.compared += 1


# elementwise

def _erf_parts(x):
    return 0.5 * (1 + scipy.special.erf(x / math.sqrt(2))), np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu(x):
    return x * _erf_parts(x)[0]


def _gelu_slope(x):
    return _erf_parts(x)[0] + x * _erf_parts(x)[1]


ROOT = math.sqrt(2 / math.pi)


def _tanh_gelu(x):
    return x * (1 + np.tanh(ROOT * (x + 0.044715 * x**3))) / 2


def _tanh_gelu_slope(x):
    t = np.tanh(ROOT * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x**2)


def _silu_slope(x):
    s = scipy.special.expit(x)
    return s * (1 + x * (1 - s))


FUNCTIONS = {
    elementwise.GELU: (_gelu, _gelu_slope),
    elementwise.GELU_TANH: (_tanh_gelu, _tanh_gelu_slope),
    elementwise.RELU: (lambda x: np.where(x < 0, 0, x), lambda x: np.where(x > 0, 1.0, 0.0)),
    elementwise.SILU: (lambda x: x * scipy.special.expit(x), _silu_slope),
}


def activations(bench, dtype):
    for kind, (f, slope) in FUNCTIONS.items():
        for n, offset in SIZES:
            x, x64 = bench.draw(n, dtype, offset, 3.0)
            grad, grad64 = bench.draw(n, dtype)
            bench.same(elementwise.activation(x, kind), f(x64), f"activation {kind} of {n}", 4)
            got = elementwise.activation_backward(grad, x, kind)
            bench.same(got, grad64 * slope(x64), f"backward of activation {kind} of {n}", 8)
        for shape, offset in (((5, 3), 1), ((7, 64), 0), ((7, 64), 1), ((3, 100), 0), ((3, 22), 2)):
            x, x64 = bench.draw(shape, dtype, 0, 2.0)
            grad, grad64 = bench.draw(shape, dtype)
            bias, bias64 = bench.draw(shape[-1:], dtype, offset)
            bench.same(elementwise.activation(x, kind, bias), f(x64 + bias64), f"bias and activation {kind}", 8)
            got = elementwise.activation_backward(grad, x, kind, bias)
            bench.same(got, grad64 * slope(x64 + bias64), f"backward of bias and activation {kind}", 16)


def unaligned_one_by_one(bench, dtype):
    """Each array in turn starts at its second element: results too, which the launchers never do."""
    n, shape, threads = 41, (4, 24), (elementwise.THREADS,)
    f, slope = FUNCTIONS[elementwise.SILU]

    def drawn(shape, count, unaligned):
        return zip(*(bench.draw(shape, dtype, int(i == unaligned), 2.0) for i in range(count)))

    def room(shape, unaligned):
        return bench.put(np.full(shape, np.nan, dtype), int(unaligned))

    for at in range(5):
        what = f"array {at} unaligned"
        (x, grad), (x64, g) = drawn(n, 2, at)
        out = room(n, at == 2)
        elementwise._forward[elementwise.SILU]((1,), threads, x, None, out, n, 1)
        bench.same(out, f(x64), "activation, " + what, 4)
        elementwise._backward[elementwise.SILU]((1,), threads, grad, x, None, out, n, 1)
        bench.same(out, g * slope(x64), "backward of activation, " + what, 8)
        (grad, gate, up), (g, a, b) = drawn(n, 3, at)
        out, other = room(n, at == 3), room(n, at == 4)
        elementwise._gated[elementwise.SILU]((1,), threads, gate, up, out, n, n, n)
        bench.same(out, f(a) * b, "gated, " + what, 16)
        elementwise._gated_backward[elementwise.SILU]((1,), threads, grad, gate, up, out, other, n, n, n)
        bench.same(out, g * b * slope(a), "gradient of the gate, " + what, 32)
        bench.same(other, g * f(a), "gradient of up, " + what, 16)
        (x, grad), (x64, g) = drawn(shape, 2, at)  # halves of 12: no multiple of 8
        a, b = np.split(x64, 2, 1)
        bench.same(elementwise.gated(x, None, elementwise.SILU, 1), f(a) * b, "halves, " + what, 16)
        (x, residual), (x64, r) = drawn(n, 2, at)
        out, start = room(n, at == 2), (7, 4 * at)
        elementwise._dropout((1,), threads, x, residual, out, n, 2.0, 2**31, 7, at)
        mask = random.bernoulli(CPU, (n,), 0.5, start)
        bench.same(out, 2 * x64 * mask + r, "dropout, " + what, 8)


def activations_of_extremes(bench, dtype):
    """NaN and the dtype's largest values: the limits of the functions, never a NaN of the formula's making."""
    top = float(ml_dtypes.finfo(dtype).max)
    host = np.array([top, -top, 40, -40, 0.0, -0.0, np.nan, 1e-30], dtype)
    for kind, name in enumerate(("gelu", "gelu_tanh", "relu", "silu")):
        x = host.astype(np.float64)
        want = np.where(x > 30, x, np.where(x < -30, 0.0, FUNCTIONS[kind][0](np.clip(x, -40, 40))))
        bench.same(elementwise.activation(bench.put(host), kind), want, name)
        slopes = np.where(x > 30, 1.0, np.where(x < -30, 0.0, FUNCTIONS[kind][1](np.clip(x, -40, 40))))
        if kind == elementwise.RELU:
            slopes[6] = 0.0  # as PyTorch: NaN is not above 0
        bench.same(elementwise.activation_backward(bench.put(np.ones_like(host)), bench.put(host), kind), slopes, name)


def gated(bench, dtype):
    for kind, (f, slope) in FUNCTIONS.items():
        for n, offset in SIZES:
            (gate, a), (up, b), (grad, g) = (bench.draw(n, dtype, offset, 2.0) for _ in range(3))
            bench.same(elementwise.gated(gate, up, kind), f(a) * b, f"gated {kind} of {n}", 16)
            ggate, gup = elementwise.gated_backward(grad, gate, up, kind)
            bench.same(ggate, g * b * slope(a), f"gradient of the gate, {kind} of {n}", 32)
            bench.same(gup, g * f(a), f"gradient of up, {kind} of {n}", 16)


def gated_halves(bench, dtype):
    """Both operands in one array, along a dimension: pieces of 8 in one row, across rows, of several rows."""
    for kind, (f, slope) in FUNCTIONS.items():
        for shape, dim, offset in (((1, 2), 1, 0), ((5, 6), 1, 0), ((7, 64), 1, 0), ((7, 64), 1, 1), ((3, 202), 1, 0),
                                   ((2, 6, 5), 1, 3), ((4, 3, 1), 0, 0), ((2, 2, 2056), 2, 0)):
            x, x64 = bench.draw(shape, dtype, offset, 2.0)
            a, b = np.split(x64, 2, dim)
            grad, g = bench.draw(a.shape, dtype, offset)
            what = f"gated {kind} of {shape} along {dim}"
            bench.same(elementwise.gated(x, None, kind, dim), f(a) * b, what, 16)
            got = elementwise.gated_backward(grad, x, None, kind, dim)
            bench.same(got, np.concatenate((g * b * slope(a), g * f(a)), dim), "gradient of " + what, 32)


def dropout(bench, dtype):
    for (n, offset), p in itertools.product(SIZES, (0.1, 0.5, 0.9)):
        x, x64 = bench.draw(n, dtype, offset)
        residual, r64 = bench.draw(n, dtype)
        seed, start = int(bench.rng.integers(2**64, dtype=np.uint64)), int(bench.rng.integers(2**20)) * 4
        mask = random.bernoulli(CPU, (n,), 1 - p, (seed, start))  # NumPy's own Philox
        want = x64 * (1 / (1 - p)) * mask
        bench.same(elementwise.dropout(x, p, (seed, start)), want, f"dropout {p} of {n}", 4 / (1 - p))
        got = elementwise.dropout(x, p, (seed, start), residual)
        bench.same(got, want + r64, f"dropout {p} of {n} with a residual", 8 / (1 - p))
        if dtype != F32:
            residual, r64 = bench.draw(n, F32, offset)
            got = elementwise.dropout(x, p, (seed, start), residual)
            assert got.dtype == F32
            bench.same(got, want + r64, f"dropout {p} of {n} with a residual of float32", 8 / (1 - p))
    word = int(random.random_bits(CPU, 5, 8, 16, 32)[9])  # a word that is the threshold itself drops its value
    p = 1 - word / 2**32
    x, x64 = bench.draw(16, dtype)
    bench.same(elementwise.dropout(x, p, (5, 8)), x64 / (1 - p) * random.bernoulli(CPU, (16,), 1 - p, (5, 8)),
               "dropout at the threshold", 4 / (1 - p))


# rotary embedding

def _turned(x, angles, interleaved):
    """Complex multiplication: pair j of the last dimension times exp(i angle)."""
    pairs = angles.shape[-1]
    part = x[..., :2 * pairs]
    a, b = (part[..., ::2], part[..., 1::2]) if interleaved else (part[..., :pairs], part[..., pairs:])
    z = (a + 1j * b) * np.exp(1j * angles)
    out = np.stack((z.real, z.imag), -1).reshape(part.shape) if interleaved else np.concatenate((z.real, z.imag), -1)
    return np.concatenate((out, x[..., 2 * pairs:]), -1)


def rotary_rows(bench, dtype):
    # (batch, heads, time, features), angles of a position, and the offset of the input's start
    shapes = (((2, 3, 5, 16), 8, 0), ((2, 3, 5, 16), 8, 1), ((1, 2, 4, 10), 5, 0), ((2, 1, 3, 24), 8, 0),
              ((1, 1, 1, 2), 1, 0), ((2, 2, 3, 7), 2, 3), ((1, 2, 33, 64), 32, 0), ((1, 1, 2, 2064), 1024, 0),
              ((3, 2, 2, 9), 4, 1), ((1, 1, 3, 13), 4, 0), ((1, 1, 3, 7), 2, 0),
              # a thread behind the end of a row, or of its rest; only the input or only the result is unaligned
              ((1, 1, 2, 48), 24, 0), ((1, 1, 2, 40), 8, 0), ((2, 1, 2, 24), 4, 1), ((1, 1, 2, 12), 2, 4),
              ((1, 1, 2, 20), 8, 4),
              # a rest that is one element longer than whole pieces, aligned
              ((1, 1, 1, 25), 8, 0), ((1, 1, 3, 25), 8, 0))
    for (shape, pairs, offset), interleaved in itertools.product(shapes, (False, True)):
        batch, heads, time, width = shape
        for dim, tables in ((2, (time,)), (1, (heads,)), (2, (batch, time))):
            angle = bench.rng.uniform(-7, 7, (*tables, pairs))
            cos, sin = (f(angle).astype(F32) for f in (np.cos, np.sin))
            angle = np.arctan2(sin.astype(np.float64), cos.astype(np.float64))  # of the rounded tables
            spread = [1] * 3 + [pairs]
            spread[dim] = shape[dim]
            spread[0] = batch if len(tables) == 2 else 1
            angle = angle.reshape(spread)
            x, x64 = bench.draw(shape, dtype, offset)
            # tables as they come, or one of them unaligned
            shift = (pairs, dim, len(tables)) in ((8, 1, 1), (8, 2, 2))
            cos, sin = bench.put(cos, int(shift and dim == 1)), bench.put(sin, int(shift and dim == 2))
            what = f"rotary of {shape}, {pairs} pairs, interleaved={interleaved}, positions along {dim} of {tables}"
            for inverse, sign in ((False, 1), (True, -1)):
                got = rotary.rotary(x, cos, sin, interleaved, dim, inverse)
                bench.same(got, _turned(x64, sign * angle, interleaved), what + f", inverse={inverse}", 8)
    # as it lies: a transposed input gives a transposed result, one with gaps is copied
    x, x64 = bench.draw((2, 5, 3, 16), dtype)
    angle = bench.rng.uniform(-3, 3, (5, 8))
    cos, sin = (bench.put(f(angle).astype(F32)) for f in (np.cos, np.sin))
    got = rotary.rotary(x.transpose(0, 2, 1, 3), cos, sin, False, 2, False)
    assert got.transpose(0, 2, 1, 3).flags.c_contiguous
    bench.same(got, _turned(x64.transpose(0, 2, 1, 3), angle, False), "rotary of a transposed input", 8)
    got = rotary.rotary(x[..., 4:12], bench.put(np.cos(angle[:, :4]).astype(F32)), sin[:, :4], True, 1, False)
    bench.same(got, _turned(x64[..., 4:12], angle[:, None, :4], True), "rotary of a part", 8)


# rows

def _softmax(z):
    with np.errstate(invalid="ignore"):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)


def _log_softmax(z):
    with np.errstate(invalid="ignore", divide="ignore"):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(bench, dtype):
    for columns, (count, offset) in zip(WIDTHS, itertools.cycle(((1, 0), (9, 0), (5, 1)))):
        x, x64 = bench.draw((count, columns), dtype, offset, 4.0)
        grad, g64 = bench.draw((count, columns), dtype, int(columns == 64))  # alone unaligned
        for log, f in ((False, _softmax), (True, _log_softmax)):
            y = rows.softmax(x, log, 0.5)
            bench.same(y, f(0.5 * x64), f"softmax of {columns}, log={log}", 16 if log else 1, 4)
            y64 = bench.backend.to_host(y).astype(np.float64)
            inner = np.exp(y64) * g64.sum(-1, keepdims=True) if log else y64 * (g64 * y64).sum(-1, keepdims=True)
            want = 0.5 * (g64 - inner if log else y64 * g64 - inner)
            scale = np.abs(g64).sum(-1, keepdims=True) * (np.exp(y64) if log else y64) + np.abs(want)
            bench.same(rows.softmax_backward(grad, y, log, 0.5), want, f"backward of softmax of {columns}", scale, 16)


MASKS = ((33,), (5, 33), (2, 1, 1, 33), (3, 5, 33), (2, 3, 5, 33), (3, 1, 33), (2, 1, 5, 33), (1, 3, 1, 33))


def softmax_with_masks(bench, dtype):
    shape = (2, 3, 5, 33)
    x, x64 = bench.draw(shape, dtype, 0, 2.0)
    for mask_shape in MASKS:
        mask = bench.rng.random(mask_shape) < 0.6
        mask[..., 0] = True
        if mask.ndim > 1:
            mask[(0,) * (mask.ndim - 1)] = False  # a row without any element is NaN, as in PyTorch
        want = np.where(mask, 0.5 * x64, -np.inf)
        got = rows.masked_softmax(x, bench.put(mask), scale=0.5)
        bench.same(got, _softmax(want), f"mask {mask_shape}", 1, 4)
        got = rows.masked_softmax(x, bench.put(mask), scale=0.5, log=True)
        bench.same(got, _log_softmax(want), f"log, mask {mask_shape}", 16, 4)
        got = rows.masked_softmax(x, bench.put(mask), scale=0.5, zero=True)
        bench.same(got, np.nan_to_num(_softmax(want)), f"mask {mask_shape}, rows of zeros", 1, 4)
        bias = np.where(mask, bench.rng.standard_normal(mask_shape), -np.inf).astype(F32)
        got = rows.masked_softmax(x, bias=bench.put(bias), scale=0.5, zero=True)
        want = np.nan_to_num(_softmax(0.5 * x64 + bias.astype(np.float64)))
        bench.same(got, want, f"bias {mask_shape}", 8, 4)
    for mask_shape in ((2, 1, 5, 1), (1, 5, 33, 1), (4, 1, 2, 1, 5, 33)):
        assert rows.masked_softmax(x, bench.put(np.ones(mask_shape, bool))) is None  # the formula, or no mask of x
    x, _ = bench.draw((2, 3, 2, 3, 2, 33), dtype)
    assert rows.masked_softmax(x, bench.put(np.ones((2, 1, 2, 1, 2, 33), bool))) is None  # three runs of rows


def softmax_of_scores(bench, dtype):
    """As attention has it: scores in float32 for probabilities of the dtype, causal or not, rows of every kind."""
    for (matrices, queries, keys), offset in itertools.product(
            ((1, 1, 1), (2, 7, 5), (3, 5, 64), (2, 33, 40), (1, 3, 2080), (1, 70, 70)), (0, 1)):
        x, x64 = bench.draw((matrices, queries, keys), F32, offset, 3.0)
        what = f"scores {x.shape} from {offset}"
        bench.same(rows.masked_softmax(x, scale=0.25, dtype=dtype), _softmax(0.25 * x64), what, 1, 4)
        seen = np.tril(np.ones((queries, keys), bool))
        hidden = np.where(seen, x64, np.nan).astype(F32)  # NaN where no row may look
        got = rows.masked_softmax(bench.put(hidden, offset), scale=0.25, causal=True, dtype=dtype)
        bench.same(got, _softmax(np.where(seen, 0.25 * x64, -np.inf)), "causal " + what, 1, 4)
        got = rows.masked_softmax(x, bench.put(np.zeros((queries, keys), bool)), causal=True, zero=True, dtype=dtype)
        bench.same(got, np.zeros(x.shape), "all is masked, causal " + what)
        hidden[:, -1, 0] = np.nan  # in the last row all is NaN, in the part that it does not see too
        for log, f in ((False, _softmax), (True, _log_softmax)):
            got = rows.masked_softmax(bench.put(hidden, offset), causal=True, log=log, dtype=dtype)
            want = f(np.where(seen, hidden.astype(np.float64), -np.inf))
            bench.same(got, want, f"causal, NaN, log={log} " + what, 32 if log else 1, 4)


def softmax_of_extremes(bench, dtype):
    top = float(ml_dtypes.finfo(dtype).max)
    inf = np.inf
    host = np.array([[top, top, 0], [-inf, 0, 0], [-inf] * 3, [inf, 0, 0], [np.nan, 0, 0], [-top, top, 0]], dtype)
    want = np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [np.nan] * 3, [np.nan] * 3, [np.nan] * 3, [0, 1, 0]])
    bench.same(rows.softmax(bench.put(host)), want, "softmax of extremes")


def _norm(x, center, eps):
    mean = x.mean(-1, keepdims=True) if center else 0.0
    r = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (x - mean) * r, r


def normalizations(bench, dtype):
    for center, columns, weights in itertools.product((True, False), WIDTHS, (None, dtype, F32)):
        count, offset = (7, 1) if columns in (100, 257) else (530, 0) if columns == 31 else (5, 0)
        _normalization(bench, dtype, center, columns, weights, count, offset, False)


def normalizations_far_from_zero(bench, dtype):
    """Values near 1000 that differ by 1: a variance as mean of squares less square of the mean would lose it."""
    x64 = (1000 + bench.rng.standard_normal((3, 2560))).astype(F32).astype(np.float64)
    y, mean, r, _ = rows.norm(bench.put(x64.astype(F32)), None, None, 2560, 1e-5, True)
    # the mean is right to 4 units of float32 at 1000, and so is what is left of x
    bench.same(mean, x64.mean(-1, keepdims=True), "mean near 1000", 1000)
    bench.same(y, _norm(x64, True, 1e-5)[0], "norm near 1000", 1000)


def normalizations_of_sums(bench, dtype):
    """x + residual normalized and kept, and the gradient that comes to the sum itself."""
    for center, columns, weights in itertools.product((True, False), (1, 8, 100, 264, 2051), (None, dtype, F32)):
        _normalization(bench, dtype, center, columns, weights, 7, 0, True)
    for center, unaligned in itertools.product((True, False), ("x", "grad", "residual", "more")):
        _normalization(bench, dtype, center, 72, dtype, 4, 1, True, unaligned)


def normalizations_of_long_rows(bench, dtype):
    """Longer than shared memory has sums for: gradients of weight and bias by a kernel of their own."""
    for center, columns, count in ((True, 6145, 3), (True, 6160, 4), (False, 12296, 3)):
        _normalization(bench, dtype, center, columns, dtype, count, 0, columns == 6160)
    for center, columns, (count, grad_offset, x_offset) in itertools.product(
            (True, False), (1, 5, 72), ((1, 0, 0), (5, 1, 0), (5, 0, 1), (700, 0, 0))):
        grad, g64 = bench.draw((count, columns), dtype, grad_offset)
        x, x64 = bench.draw((count, columns), dtype, x_offset)
        mean, m64 = bench.draw((count, 1), F32) if center else (None, 0.0)
        r, r64 = bench.draw((count, 1), F32)
        wants = g64 * (x64 - m64) * r64, g64
        for got, want in zip(sums.norm_weight_sums(grad, x, mean, r, columns, center), wants):
            if got is not None:
                what = f"sums of {count} x {columns}, center={center}"
                bench.same(sums.column_sums(got), want.sum(0), what, 4 * np.abs(want).sum(0).max() + 4)


def _normalization(bench, dtype, center, columns, weights, count, offset, residual, unaligned="x"):
    def operand(name, scale=1.0):
        return bench.draw((count, columns), dtype, offset * (name == unaligned), scale)

    x, x64 = operand("x", 2.0)
    grad, g64 = operand("grad")
    more, m64 = operand("more") if residual else (None, 0.0)
    weight, w64 = bench.draw(columns, weights, 1) if weights else (None, 1.0)
    bias, b64 = bench.draw(columns, weights) if weights and center else (None, 0.0)
    what = f"norm of {columns}, center={center}, weights {weights}"
    if residual:
        r, r64 = operand("residual")
        y, mean, r, x = rows.norm(x, weight, bias, columns, 1e-5, center, r)
        bench.same(x, x64 + r64, "sum, " + what, 4)
        x64 = bench.backend.to_host(x).astype(np.float64)  # what is rounded is what is normalized
    else:
        y, mean, r, _ = rows.norm(x, weight, bias, columns, 1e-5, center)
    xhat, r64 = _norm(x64, center, 1e-5)
    # x less its mean loses what x has in front of it
    scale = 4 * (np.abs(x64).max() * r64 + 1) * (1 + np.abs(w64))
    bench.same(y, xhat * w64 + b64, what, scale, 4)
    bench.same(r, r64, what, 4 * r64 * (1 + np.abs(x64).max() * r64) ** 2, 4)
    if center:
        bench.same(mean, x64.mean(-1, keepdims=True), what, 16)
    got = rows.norm_backward(grad, x, weight, mean, r, columns, center, more)
    gx, gw, gb = got if weights else (got, None, None)
    h = g64 * w64
    want = h - xhat * (h * xhat).mean(-1, keepdims=True)
    if center:
        want = want - h.mean(-1, keepdims=True)
    scale = r64 * (np.abs(h).max() + 1) * (1 + np.abs(x64).max() * r64) ** 2
    bench.same(gx, want * r64 + m64, "gx, " + what, 8 * scale + 4 * np.abs(m64), 4)
    if weights:
        terms = np.abs(g64 * xhat).sum(0).max() + 1
        bench.same(gw, (g64 * xhat).sum(0), "weight, " + what, 2 * terms * (1 + np.abs(x64).max() * r64.max()))
        if center:
            bench.same(gb, g64.sum(0), "bias, " + what, 2 * np.abs(g64).sum(0).max() + 1)


def column_sums(bench, dtype):
    """Rows of less and more than a line of 128 bytes, of whole pieces or not, in one stage or two, and leading axes."""
    for count, columns in ((1, 1), (7, 31), (9, 33), (3, 200), (513, 70), (1500, 5), (2100, 64), (300, 520)):
        for offset in (0, 1) if columns in (64, 70) else (0,):
            x, x64 = bench.draw((count, columns), dtype, offset)
            scale = np.abs(x64).sum(0).max()
            for out in {dtype, F32}:
                what = f"column sums of {count} x {columns} from {offset} as {out}"
                bench.same(sums.column_sums(x, out), x64.sum(0), what, scale)
    x, x64 = bench.draw((2, 5, 3, 8), dtype)
    for lead in (1, 2, 3):
        axes = tuple(range(lead))
        bench.same(sums.leading_sums(x, axes), x64.sum(axes), f"sums over {axes}", np.abs(x64).sum(axes).max())
    assert sums.leading_sums(x, (1,)) is None and sums.leading_sums(x, (0, 1, 2, 3)) is None


def embedding_rows(bench, dtype):
    """Rows of less and more than a piece; numbers that are not there give NaN, and the error word says so."""
    for kind, (rows_, columns, count), offset in itertools.product(
            (np.int32, np.int64), ((1, 1, 1), (7, 8, 300), (5, 33, 9), (3, 520, 4), (9, 264, 11)), (0, 1)):
        table, t64 = bench.draw((rows_, columns), dtype, offset)
        index = bench.rng.integers(0, rows_, count).astype(kind)
        what = f"{count} rows of ({rows_}, {columns}) from {offset} by {np.dtype(kind)}"
        bench.same(embedding.gather(table, bench.put(index, offset), "case"), t64[index], what)
    table, t64 = bench.draw((4, 24), dtype)
    got = embedding.gather(table, bench.put(np.array([3, 4, -1])), "case")
    _reported(bench, table)
    narrow, _ = bench.draw((4, 1), dtype)
    embedding.gather(narrow, bench.put(np.array([4])), "case")
    _reported(bench, narrow)
    bench.same(got, np.concatenate((t64[3:], np.full((2, 24), np.nan))), "numbers that are not there")


def _reported(bench, array):
    """A wrong index stands in the error word; it is cleared, so that the next read does not raise."""
    word = errors.word(array).copy()
    errors.word(array).fill(errors.CLEAR)
    assert bench.backend.to_host(word)[0] != errors.CLEAR, "a wrong index was not reported"


def embedding_gradients(bench, dtype):
    """Indices that are all different, all equal, in runs across pieces of 16; some outside, some of the padding row."""
    for kind, (count, rows_, columns, top), (padding, by_count) in itertools.product(
            (np.int32, np.int64),
            ((1, 3, 1, 3), (100, 7, 8, 7), (300, 5, 33, 2), (64, 200, 100, 200), (1000, 3, 264, 1), (33, 9, 520, 4)),
            ((None, False), (1, True))):
        grad, g64 = bench.draw((count, columns), dtype, count % 2)
        index = bench.rng.integers(0, top, count)
        if count > 60:
            index[[5, 17]] = -3, rows_
        counted = (index >= 0) & (index < rows_) & (index != padding)
        want, size = np.zeros((rows_, columns)), np.zeros((rows_, columns))
        np.add.at(want, index[counted], g64[counted])
        np.add.at(size, index[counted], np.abs(g64[counted]))
        if by_count:
            number = np.maximum(np.bincount(index[counted], minlength=rows_), 1)[:, None]
            want, size = want / number, size / number
        got = embedding.sums(grad, bench.put(index.astype(kind)), rows_, padding, by_count)
        what = f"{count} gradients of ({rows_}, {columns}), {np.dtype(kind)}, padding {padding}, by_count={by_count}"
        bench.same(got, want, what, size.max() + 1)
    # runs that end with a piece of 16, fill one, begin at position 0 and cross, end one position behind a piece
    for runs, unaligned in itertools.product(((3, 5, 8, 16, 20), (40, 8), (17, 1, 14, 3), (16, 16, 1), (33,)), (0, 1)):
        index = np.repeat(np.arange(len(runs)), runs)
        grad, g64 = bench.draw((index.size, 24), dtype, unaligned)
        order = bench.rng.permutation(index.size)
        want = np.stack([g64[index[order] == i].sum(0) for i in range(len(runs))])
        for by_count in (False, True):
            number = np.array(runs)[:, None] if by_count else 1
            got = embedding.sums(grad, bench.put(index[order]), len(runs), by_count=by_count)
            bench.same(got, want / number, f"runs of {runs}, by_count={by_count}", np.abs(g64).sum(0).max())


def cross_entropy(bench, dtype):
    for columns, smoothing in itertools.product(WIDTHS[1:], (0.0, 0.1)):
        count, offset = (9, 1) if columns in (64, 100) else (5, 0)
        x, x64 = bench.draw((count, columns), dtype, offset, 3.0)
        target = bench.rng.integers(0, columns, count)
        target[1] = -100
        log_p = _log_softmax(x64)
        picked = np.take_along_axis(log_p, np.maximum(target, 0)[:, None], 1)[:, 0]
        kept = target != -100
        want = np.where(kept, -(1 - smoothing) * picked - smoothing * log_p.mean(1), 0.0)
        loss, lse = entropy.forward(x, bench.put(target), -100, smoothing)
        bench.same(loss, want, f"cross-entropy of {columns}, smoothing {smoothing}", 32, 4)
        bench.same(lse, scipy.special.logsumexp(x64, axis=1), f"log of the sum of {columns}", 32)
        for mean in (False, True):
            got, share = entropy.total(loss, bench.put(target), -100, mean, dtype)
            bench.same(got, np.asarray(want.sum() / (kept.sum() if mean else 1)), f"total, mean={mean}", 64, 4)
            bench.same(share, np.asarray(1 / kept.sum() if mean else 1.0), f"share, mean={mean}")
        spread = np.full((count, columns), smoothing / columns)
        spread[np.arange(count), np.maximum(target, 0)] += 1 - smoothing
        for shape in ((), (count,)):
            grad = bench.rng.standard_normal(shape).astype(F32)
            scale = np.asarray(0.25, F32)
            got = entropy.backward(
                bench.put(grad), x, bench.put(target), lse, -100, smoothing, bench.put(scale))
            g = 0.25 * np.broadcast_to(grad.astype(np.float64), (count,)) * kept
            bench.same(got, g[:, None] * (np.exp(log_p) - spread), f"backward of cross-entropy of {columns}", 32)


def cross_entropy_of_nothing(bench, dtype):
    """Every row ignored: the mean is NaN, a row's share 0. More rows than threads."""
    for count in (1, 3, 33, 2050):
        loss = bench.put(np.zeros(count, F32))
        got, share = entropy.total(loss, bench.put(np.full(count, -1)), -1, True, dtype)
        bench.same(got, np.asarray(np.nan), f"mean of nothing of {count}")
        bench.same(share, np.asarray(0.0), f"share of nothing of {count}")
        loss, l64 = bench.draw(count, F32)
        got, share = entropy.total(loss, bench.put(np.zeros(count, np.int64)), -1, True, dtype)
        bench.same(got, np.asarray(l64.mean()), f"mean of {count}", 8, 4)
        bench.same(share, np.asarray(1 / count), f"share of {count}")


def cross_entropy_out_of_range(bench, dtype):
    """A class that is not there gives NaN, never a number, and is reported."""
    x, x64 = bench.draw((4, 8), dtype)
    target = np.array([8, -1, 3, -100])
    loss, lse = entropy.forward(x, bench.put(target), -100, 0.0)
    _reported(bench, x)
    log_p = _log_softmax(x64)
    bench.same(loss, np.array([np.nan, np.nan, -log_p[2, 3], 0]), "targets out of range", 8)
    grad = bench.put(np.ones((), F32))
    got = entropy.backward(grad, x, bench.put(target), lse, -100, 0.0)
    want = np.exp(log_p) - (np.arange(8) == 3)
    want[:2], want[3] = np.nan, 0
    bench.same(got, want, "gradient of targets out of range", 8)


# lists of tensors

EPS = 0.1  # a small one would make the step of a gradient near zero a matter of its last digit
LISTS = (1, 7, 8, 9, 41, 3000, multi.CHUNK + 5)  # elements


def _lists(bench, arrays, number):
    """Arrays on the device as list `number` of some. Unaligned are one too short for pieces of 16 bytes, and one that
    is aligned in all other lists."""
    return [bench.put(a, 1 if i in (1, 2 + number) else 0) for i, a in enumerate(arrays)]


def _draw_lists(bench, dtype, number=0, scale=1.0):
    hosts = [(bench.rng.standard_normal(n) * scale).astype(dtype) for n in LISTS]
    return _lists(bench, hosts, number), [a.astype(np.float64) for a in hosts]


def _numbers(bench, *values, dtype=F32):
    return bench.put(np.array(values, dtype))


def unscaling(bench, dtype):
    grads, g64 = _draw_lists(bench, dtype)
    found, lists = _numbers(bench, 0), multi.TensorLists(grads)
    parts = _numbers(bench, *[np.nan] * lists.blocks)

    def norm(limit, factor=None):
        multi.unscale(lists, factor, parts, found)
        return multi.finish_norm(parts, limit)

    total, clip = norm(3.0)
    want = np.sqrt(sum((g * g).sum() for g in g64))
    bench.same(total, want, "norm", want)
    bench.same(clip, 3 / (want + 1e-6), "factor of clipping", 1)
    total, clip = norm(1e6, _numbers(bench, 0.25))
    bench.same(total, want / 4, "norm after unscaling", want)
    bench.same(clip, np.array(1.0), "nothing to clip")
    multi.unscale(lists, _numbers(bench, 0.5))
    multi.unscale(lists, _numbers(bench, 1.0))
    for got, g in zip(grads, g64):
        bench.same(got, g / 8, "unscaled gradient")
    assert not bench.backend.to_host(found).any()
    zeroed = multi.TensorLists(_draw_lists(bench, dtype)[0])
    multi.unscale(zeroed, _numbers(bench, 0.0))
    assert not any(bench.backend.to_host(a).any() for a in zeroed.arrays[0])
    parts.fill(np.nan)
    bench.same(norm(3.0, _numbers(bench, 1.0))[0], want / 8, "norm with a factor of 1", want)
    squares = bench.rng.random(700).astype(F32)
    total, clip = multi.finish_norm(bench.put(squares), 1.0)
    want = math.sqrt(squares.astype(np.float64).sum())
    bench.same(total, np.array(want), "norm of 700 blocks", want)
    total, clip = multi.finish_norm(_numbers(bench, 1e-12), 5e-7)
    bench.same(clip, np.array(0.25), "a norm of 1e-6 is no more than what it is divided by", 0.25)
    for bad in (np.inf, -np.inf, np.nan):
        for i, n in ((0, 0), (5, 2999), (6, LISTS[6] - 1)):
            found = _numbers(bench, 0)
            keep = bench.backend.to_host(grads[i]).copy()
            grads[i][n] = bad
            multi.unscale(lists, found=found)
            assert bench.backend.to_host(found)[0] == 1, f"{bad} at {n} of tensor {i} was not found"
            multi.unscale(lists, None, parts)  # without a flag
            assert not np.isfinite(bench.backend.to_host(multi.finish_norm(parts)[0]))
            grads[i][...] = bench.backend.from_host(keep)


def adam(bench, dtype):
    masters = (False, True) if dtype != F32 else (False,)
    for decoupled, master, maximize in itertools.product((False, True), masters, (False, True)):
        param, p64 = _draw_lists(bench, dtype)
        grad, g64 = _draw_lists(bench, dtype, 1, 4.0)
        state = [_lists(bench, [np.zeros(n, F32) for n in LISTS], number) for number in (2, 3)]
        if master:
            state.append(_lists(bench, [p.astype(F32) for p in p64], 4))
        lists, grads = multi.TensorLists(param, *state), multi.TensorLists(grad)
        steps = [_numbers(bench, i) for i in range(len(LISTS))]  # each tensor has a count of its own
        counts, corrections = multi.addresses(steps), _numbers(bench, *[np.nan] * 2 * len(LISTS))
        found, scale = (_numbers(bench, 0), _numbers(bench, 2.0)) if maximize else (None, None)
        m = v = [0.0] * len(LISTS)
        for t in (1, 2):
            multi.advance(counts, found, corrections, (0.9, 0.999))
            multi.adam(lists, grads, corrections, 0.1, (0.9, 0.999), EPS, 0.01, decoupled, scale, found, maximize)
            if scale is not None:
                g64 = [g / 2 for g in g64]
            g = [(-a if maximize else a) + (0 if decoupled else 0.01 * p) for a, p in zip(g64, p64)]
            p64 = [p * (1 - 0.1 * 0.01) for p in p64] if decoupled else p64
            m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
            v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
            p64 = [p - 0.1 / (1 - 0.9**(t + i)) * a / (np.sqrt(b / (1 - 0.999**(t + i))) + EPS)
                   for i, (p, a, b) in enumerate(zip(p64, m, v))]
            for i in range(len(LISTS)):
                what = f"step {t} of tensor {i}, decoupled={decoupled}, master={master}, maximize={maximize}"
                bench.same(param[i], p64[i], "parameter, " + what, 16)
                bench.same(grad[i], g64[i], "gradient, " + what)
                bench.same(state[0][i], m[i], "first moment, " + what, 16)
                bench.same(state[1][i], v[i], "second moment, " + what, 16)
                if master:
                    bench.same(state[2][i], p64[i], "master, " + what, 16)
                assert bench.backend.to_host(steps[i])[0] == t + i
            if not master:  # the next step starts from the rounded parameter
                p64 = [bench.backend.to_host(p).astype(np.float64) for p in param]
            _write(param, p64)
        _nothing_moves(bench, [*param, *grad, *sum(state, []), *steps, corrections], lambda flag: (
            multi.advance(counts, flag, corrections, (0.9, 0.999)),
            multi.adam(lists, grads, corrections, 0.1, (0.9, 0.999), EPS, 0.01, decoupled, scale, flag, maximize)))


def _write(param, p64):
    """What others write into parameters between steps is the weight from then on, whatever the master was."""
    for i, element in ((5, 17), (6, LISTS[6] - 1)):
        param[i][element] = p64[i][element] = -2.5


def _nothing_moves(bench, arrays, update):
    """With the flag set every bit stays, the step counts as well."""
    def bits():
        return [bench.backend.to_host(a).tobytes() for a in arrays]

    before = bits()
    update(_numbers(bench, 1))
    assert bits() == before
    bench.compared += 1


def sgd(bench, dtype):
    masters = (False, True) if dtype != F32 else (False,)
    for momentum, nesterov, master in itertools.product((0.0, 0.9), (False, True), masters):
        if nesterov and not momentum:
            continue
        param, p64 = _draw_lists(bench, dtype)
        grad, g64 = _draw_lists(bench, dtype, 1)
        # a first step does not use what the momentum is
        state = [_lists(bench, [np.full(n, np.nan, F32) for n in LISTS], 2)] if momentum else []
        if master:
            state.append(_lists(bench, [p.astype(F32) for p in p64], 3))
        counts = [_numbers(bench, 0) for _ in LISTS]
        steps = multi.addresses(counts) if momentum else None
        lists, grads = multi.TensorLists(param, *state), multi.TensorLists(grad)
        scale, maximize = None if nesterov else _numbers(bench, 4.0), nesterov
        dampening, found, b = 0.0 if nesterov else 0.2, _numbers(bench, 0), []

        def step(flag):
            if momentum:
                multi.advance(steps, flag)
            multi.sgd(lists, grads, steps, 0.1, momentum, dampening, 0.5, nesterov, master, scale, flag, maximize)

        for t in (1, 2):
            step(found)
            if scale is not None:
                g64 = [a / 4 for a in g64]
            g = [(-a if maximize else a) + 0.5 * p for a, p in zip(g64, p64)]
            if momentum:
                b = g if t == 1 else [momentum * x + (1 - dampening) * y for x, y in zip(b, g)]
                g = [x + momentum * y for x, y in zip(g, b)] if nesterov else b
            p64 = [p - 0.1 * x for p, x in zip(p64, g)]
            for i in range(len(LISTS)):
                what = f"step {t} of tensor {i}, momentum={momentum}, nesterov={nesterov}, master={master}"
                bench.same(param[i], p64[i], "parameter, " + what, 8)
                bench.same(grad[i], g64[i], "gradient, " + what)
                if momentum:
                    bench.same(state[0][i], b[i], "momentum, " + what, 8)
            if not master:
                p64 = [bench.backend.to_host(p).astype(np.float64) for p in param]
            _write(param, p64)
        _nothing_moves(bench, [*param, *grad, *sum(state, []), *counts], step)


def step_counts(bench, dtype):
    """No dtype matters: counts are float32. More tensors than threads of a block."""
    n, betas = 600, (0.9, 0.999)
    counts = [_numbers(bench, i % 50) for i in range(n)]
    steps, corrections = multi.addresses(counts), bench.put(np.full((n, 2), np.nan, F32))
    multi.advance(steps, None, corrections, betas)
    now = np.arange(n) % 50 + 1.0
    assert [float(bench.backend.to_host(c)[0]) for c in counts] == now.tolist()
    bench.same(corrections, 1 - np.array(betas) ** now[:, None], "corrections", 0.01)


def loss_scale(bench, dtype):
    """No dtype matters here: the scale is float32."""
    scale, tracker = _numbers(bench, 3.0), _numbers(bench, 0, dtype=np.int32)

    def step(found, growth=2.0, backoff=0.5, interval=3):
        multi.update_scale(scale, tracker, _numbers(bench, found), growth, backoff, interval)
        return float(bench.backend.to_host(scale)[0]), int(bench.backend.to_host(tracker)[0])

    assert [step(bad) for bad in (0, 0, 0, 0, 1, 2, 0)] == [
        (3.0, 1), (3.0, 2), (6.0, 0), (6.0, 1), (3.0, 0), (1.5, 0), (1.5, 1)]
    assert step(0, growth=3e38, interval=2) == (1.5, 0), "a scale that would be infinite stays"
    assert step(0, growth=1.1, interval=1) == (float(np.float32(1.5 * 1.1)), 0)
    bench.compared += 1


def indices_in_range(bench, dtype):
    """The smallest index out of range reaches the error word, whatever the order of threads; in range nothing does."""
    kind = np.int32 if dtype == F32 else np.int64
    errors.code("the first call of all, whose number is 0", 0, 1)

    def check(host, offset, low, high, ignore, report):
        index = bench.put(host, offset)
        word = errors.word(index)
        errors.check_indices("case", index, low, high, ignore=ignore)
        found = int(bench.backend.fetch(word)())
        word.fill(errors.CLEAR)
        number = errors.code("case", low, high)
        assert number > 0
        want = errors.CLEAR if report is None else (number << 40) + (1 << 39) + report
        assert found == want, f"{n} indices of {kind}, ignoring {ignore}: got {found}, expected {want}"
        bench.compared += 1

    for n, offset in SIZES:
        host = bench.rng.integers(-5, 100, n).astype(kind)
        check(host, offset, -5, 100, None, None)
        for at, value in ((0, -6), (255, 100), (256, -6), (n // 2, 100), (n - 1, 100)):
            if at < n:
                good, host[at] = host[at], value
                check(host, offset, -5, 100, None, value)
                host[at] = good
        host[bench.rng.integers(n)] = -77
        check(host, offset, -5, 100, -77, None)
        check(host, offset, -5, 100, None, -77)
    n = errors.BLOCKS * errors.THREADS + 1  # the last one is some block's second
    host = np.zeros(n, kind)
    host[-1] = 100
    check(host, 0, -5, 100, None, 100)
    if kind is np.int64:  # a report has 40 bits for the value
        half = 1 << 39
        for value in (half - 2, half - 1, half, half + 5, 1 << 60, 1 - half, -half, -half - 1, -(1 << 60)):
            check(np.array([3, value], kind), 0, -5, 100, None, min(max(value, -half), half - 1))


CASES = {  # case -> the `__global__` functions it covers
    activations: ("activation_forward", "activation_backward"),
    activations_of_extremes: ("activation_forward", "activation_backward"),
    gated: ("gated_forward", "gated_backward"),
    gated_halves: ("gated_forward", "gated_backward"),
    unaligned_one_by_one: ("activation_forward", "activation_backward", "gated_forward", "gated_backward", "dropout"),
    dropout: ("dropout",),
    rotary_rows: ("rotary",),
    softmax: ("softmax_forward", "softmax_backward"),
    softmax_with_masks: ("masked_softmax",),
    softmax_of_scores: ("masked_softmax",),
    softmax_of_extremes: ("softmax_forward",),
    normalizations: ("norm_forward", "norm_backward", "column_sums"),
    normalizations_far_from_zero: ("norm_forward",),
    normalizations_of_long_rows: ("norm_backward", "norm_weight_sums"),
    normalizations_of_sums: ("norm_forward", "norm_backward", "column_sums"),
    column_sums: ("column_sums",),
    embedding_rows: ("embedding_forward",),
    embedding_gradients: ("embedding_backward", "embedding_join"),
    cross_entropy: ("cross_entropy_forward", "cross_entropy_backward", "cross_entropy_total"),
    cross_entropy_of_nothing: ("cross_entropy_total",),
    cross_entropy_out_of_range: ("cross_entropy_forward", "cross_entropy_backward"),
    unscaling: ("unscale", "finish_norm"),
    adam: ("adam", "advance"),
    sgd: ("sgd", "advance"),
    step_counts: ("advance",),
    loss_scale: ("update_scale",),
    indices_in_range: ("check_indices",),
}
