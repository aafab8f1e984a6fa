"""Matrix products on raw arrays: every layout and dtype against float64 formulas and PyTorch."""
from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tinytorch_gpu.backend import device as devices
from tinytorch_gpu.backend import gemm as gemm_module
from tinytorch_gpu.backend.gemm import gemm, matmul

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), BF16]
INTEGERS = [np.dtype(t) for t in (np.int64, np.int32, np.int16, np.int8, np.uint8)]
COMPLEX = [np.dtype(np.complex64), np.dtype(np.complex128)]
# relative to sum |a||b|: the unit roundoff of the result, and of float32 accumulation over K <= 200
EPS = {"float64": 1e-14, "float32": 1e-5, "float16": 2**-11 + 1e-5, "bfloat16": 2**-8 + 1e-5,
       "complex64": 2e-5, "complex128": 2e-14}

SHAPES = [
    ((3, 4), (4, 5)), ((1, 4), (4, 1)), ((1, 1), (1, 1)), ((70, 200), (200, 33)),
    ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)),
    ((1, 3, 4), (6, 4, 1)), ((2, 3, 2, 7, 8), (3, 1, 8, 6)), ((2, 1, 4), (4, 1)),
]
EMPTY = [((0, 4), (4, 5)), ((3, 0), (0, 5)), ((3, 4), (4, 0)), ((2, 3, 0), (0, 5)), ((0, 3, 4), (4, 5)),
         ((0, 3, 4), (0, 4, 5)), ((2, 3, 0), (2, 0, 5)), ((0, 1, 3, 4), (5, 4, 2))]


def draw(rng, shape, dtype):
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    x = rng.standard_normal(shape)
    if dtype.kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def exact(a, b):
    """The product by a sum over an explicit axis, and the scale of its rounding errors."""
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    terms = a[..., :, :, None] * b[..., None, :, :]
    return terms.sum(-2), np.abs(terms).sum(-2)


def check(out, a, b, dtype, eps=None):
    value, scale = exact(a, b)
    assert out.dtype == dtype
    assert out.shape == value.shape
    wide = value.dtype
    tiny = 2.0**-25 if dtype == np.float16 else 0  # half of its smallest subnormal
    assert (np.abs(out.astype(wide) - value) <= (eps or EPS[dtype.name]) * scale + tiny).all()


def swap(x):
    return np.ascontiguousarray(x.swapaxes(-1, -2))


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("flags", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_product_with_transpose_flags(rng, shapes, dtype, flags):
    a, b = (draw(rng, s, dtype) for s in shapes)
    out = gemm(swap(a) if flags[0] else a, swap(b) if flags[1] else b, *map(bool, flags))
    check(out, a, b, dtype)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_integers_wrap(rng, shapes, dtype):
    a, b = (draw(rng, s, dtype) for s in shapes)
    expected = (a[..., :, :, None].astype(object) * b[..., None, :, :].astype(object)).sum(-2)
    bits = dtype.itemsize * 8
    wrapped = expected % 2**bits
    if dtype.kind == "i":
        wrapped = np.where(wrapped >= 2**(bits - 1), wrapped - 2**bits, wrapped)
    out = gemm(a, b)
    assert out.dtype == dtype
    assert (out == wrapped.astype(dtype)).all()


@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype(np.int32), np.dtype(np.complex64)], ids=str)
@pytest.mark.parametrize("shapes", EMPTY, ids=str)
def test_empty_operands_give_zeros(shapes, dtype):
    a, b = (np.ones(s, dtype) for s in shapes)
    out = gemm(a, b)
    assert out.shape == np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + (a.shape[-2], b.shape[-1])
    assert out.dtype == dtype
    assert not out.astype(complex).any()


LAYOUTS = {
    "negative": lambda x: x[..., ::-1, :],
    "negative columns": lambda x: x[..., ::-1],
    "both strided": lambda x: np.repeat(np.repeat(x, 2, -1), 2, -2)[..., ::2, ::2],
    "wide rows": lambda x: np.concatenate([x, x], -1)[..., : x.shape[-1]],
    "expanded": lambda x: np.broadcast_to(x[..., :1, :], x.shape),
    "expanded columns": lambda x: np.broadcast_to(x[..., :1], x.shape),
    "batch last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.complex64)], ids=str)
@pytest.mark.parametrize("shapes", [((5, 6), (6, 7)), ((4, 5, 6), (6, 7)), ((4, 5, 6), (4, 6, 7))], ids=str)
def test_layouts(rng, shapes, dtype, layout):
    a, b = (LAYOUTS[layout](draw(rng, s, dtype)) for s in shapes)
    before = a.copy(), b.copy()
    check(gemm(a, b), a, b, dtype)
    check(gemm(a.swapaxes(-1, -2), b, trans_a=True), a, b, dtype)
    check(gemm(a, b.swapaxes(-1, -2), trans_b=True), a, b, dtype)
    assert (a == before[0]).all() and (b == before[1]).all()


def test_transposed_views_reach_blas_without_a_copy(rng):
    a = draw(rng, (2, 3, 16, 8), np.dtype(np.float32))
    heads = a.reshape(2, 3, 16, 2, 4).transpose(0, 3, 1, 2, 4)  # as heads split from one projection
    for view in (a, a.swapaxes(-1, -2), a[..., :4], a[:, ::-1], heads, heads.swapaxes(-1, -2)):
        assert gemm_module._for_blas(view) is view
    for view in (a[..., ::-1], a[..., ::2], np.broadcast_to(a[..., :1, :], a.shape)):
        assert gemm_module._for_blas(view).flags.c_contiguous


def test_folding_is_a_view(rng):
    a = np.zeros((4, 5, 6, 7), np.float32)
    for view in (a, a[..., :3], a[1:], a[:, :, ::2]):
        assert gemm_module._rows_are_one_axis(view)
        assert np.shares_memory(view.reshape(-1, view.shape[-1]), view)
    for view in (a.swapaxes(0, 1), a[:, ::2], a[:, :, :3], a.swapaxes(-1, -2)):
        assert not gemm_module._rows_are_one_axis(view)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
@pytest.mark.parametrize("shapes", [((1, 4096), (4096, 1)), ((2, 2, 4096), (4096, 3)), ((2, 2, 4096), (2, 4096, 3))],
                         ids=str)
def test_half_types_accumulate_in_float32(shapes, dtype):
    a, b = (np.ones(s, dtype) for s in shapes)  # 4096 ones: 256 in bfloat16, 2048 in float16 if summed there
    assert (gemm(a, b).astype(np.float32) == 4096).all()
    a[..., ::2] = 1.0078125  # 1 + 2^-7 and its square need more than 8 bits
    kept = gemm(a, b, out_dtype=np.float32)
    assert kept.dtype == np.float32
    assert (kept == 4096 + 16).all()


def test_half_overflow_is_infinite_and_silent():
    a = np.full((2, 8), 60000, np.float16)
    assert np.isposinf(gemm(a, a, trans_b=True)).all()
    assert np.isnan(gemm(np.array([[np.inf, 1.0]]), np.array([[0.0], [1.0]]))).all()


VECTORS = [((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 3, 4, 5)), ((0,), (0,)),
           ((1,), (1,)), ((0,), (0, 3)), ((2, 3, 4), (2, 4, 5))]


@pytest.mark.parametrize("shapes", VECTORS, ids=str)
@pytest.mark.parametrize("dtype", [np.dtype(np.float64), np.dtype(np.float16), np.dtype(np.int16)], ids=str)
def test_matmul_with_vectors(rng, shapes, dtype):
    a, b = (rng.integers(-3, 4, s).astype(dtype) for s in shapes)
    expected = np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64)))
    out = matmul(a, b)
    assert isinstance(out, np.ndarray)
    assert out.dtype == dtype
    assert out.shape == expected.shape
    assert (out == expected).all()


@pytest.mark.parametrize("shapes", SHAPES + EMPTY + VECTORS, ids=str)
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int32", "uint8", "complex64"])
def test_as_torch(rng, shapes, name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    dtype = BF16 if name == "bfloat16" else np.dtype(name)
    a, b = (draw(rng, s, dtype) for s in shapes)

    def to_torch(x):
        return torch.from_numpy(x.astype(np.float32)).bfloat16() if dtype == BF16 else torch.from_numpy(x)

    expected = to_torch(a) @ to_torch(b)
    out = matmul(a, b)
    assert out.shape == tuple(expected.shape)
    # PyTorch accumulates float16 in float32 or, on some processors, in pieces rounded to float16: 4 units allowed
    rtol = {"float32": 1e-5, "complex64": 2e-5, "float16": 2**-9, "bfloat16": 2**-6}.get(name, 0)
    scale = np.abs(a.astype(complex)) @ np.abs(b.astype(complex))
    difference = np.abs(out.astype(complex) - expected.to(torch.complex128).numpy())
    assert (difference <= rtol * scale.real).all()


REFUSED = {
    "inner size": ((2, 3), (4, 5), np.float32),
    "batch": ((2, 3, 4), (3, 4, 5), np.float32),
    "batch with vector": ((3,), (2, 4, 5), np.float32),
    "vectors": ((3,), (4,), np.float32),
    "number": ((), (2, 2), np.float32),
    "bool": ((2, 2), (2, 2), np.bool_),
    "bool batch": ((2, 2, 2), (2, 2, 2), np.bool_),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_class_of_torch(case):
    shape_a, shape_b, dtype = REFUSED[case]
    error = NotImplementedError if dtype is np.bool_ else RuntimeError
    with pytest.raises(error, match=r"\[matmul\]"):
        matmul(np.ones(shape_a, dtype), np.ones(shape_b, dtype))
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with pytest.raises(error):
        torch.from_numpy(np.ones(shape_a, dtype)) @ torch.from_numpy(np.ones(shape_b, dtype))


def test_refused_shapes_are_named():
    with pytest.raises(RuntimeError, match=r"\(2, 3\) and \(4, 5\)"):
        gemm(np.ones((2, 3)), np.ones((4, 5)))


def test_refused_dtypes_and_ranks():
    one = np.ones((2, 2), np.float32)
    with pytest.raises(RuntimeError, match="float32 and float64"):
        gemm(one, one.astype(np.float64))
    with pytest.raises(RuntimeError, match="out_dtype"):
        gemm(one, one, out_dtype=np.float64)
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        gemm(one, one[0])
    assert gemm(one, one, out_dtype=np.float32).dtype == np.float32


class NoHalf:
    """An array library without half products, as CuPy on a GPU whose cuBLAS has no bfloat16."""

    @staticmethod
    def matmul(a, b):
        assert a.dtype.itemsize > 2, "half types go through float32"
        return np.matmul(a, b)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shapes", SHAPES + EMPTY, ids=str)
def test_a_device_without_the_dtype_computes_in_float32(rng, shapes, dtype, monkeypatch):
    class Backend:
        xp = NoHalf

    monkeypatch.setattr(gemm_module, "backend_of", lambda array: Backend)
    monkeypatch.setattr(gemm_module, "_has", lambda backend, dtype: False)
    a, b = (draw(rng, s, dtype) for s in shapes)
    check(gemm(a, b), a, b, dtype)
    check(gemm(swap(a), swap(b), True, True), a, b, dtype)
    if dtype.itemsize == 2:
        check(gemm(a, b, out_dtype=np.float32), a, b, np.dtype(np.float32))


@pytest.mark.parametrize("where", ["sim", "cuda"])
@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype(np.int32), np.dtype(np.complex64)], ids=str)
def test_devices_agree_with_the_formula(rng, where, dtype):
    try:
        backend = devices.backend_for(devices.device(where))
    except (RuntimeError, ImportError) as e:
        pytest.skip(f"no {where} device: {e}")
    for shapes in SHAPES + EMPTY:
        a, b = (rng.integers(-3, 4, s).astype(dtype) for s in shapes)
        for flags in ((False, False), (True, True)):
            x, y = (backend.from_host(swap(v) if f else v) for v, f in zip((a, b), flags, strict=True))
            out = gemm(x, y, *flags)
            assert type(out) is backend.ndarray
            check(backend.to_host(out), a, b, dtype, eps=1e-6 if dtype.kind == "i" else None)
