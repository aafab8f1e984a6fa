"""Rules of the device that the package relies on: types, layout, copies, errors; on CuPy and the simulation."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import ml_dtypes
import numpy as np
import pytest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BFLOAT16]


def test_scalars_promote_as_numpy_2_does(device):
    put = device.put
    single, half = put(np.ones(2, np.float32)), put(np.ones(2, BFLOAT16))
    assert (single * 2.0).dtype == (2 * single).dtype == np.float32
    assert (single * 1j).dtype == np.complex64
    assert (single * np.float64(2)).dtype == (np.float64(2) * single).dtype == np.float64
    assert (put(np.ones(2, np.int8)) + 1).dtype == np.int8
    assert (put(np.ones(2, np.int64)) * 0.5).dtype == np.float64
    assert (put(np.ones(2, bool)) + 1).dtype == np.int64
    assert (half * half).dtype == (half * 2).dtype == BFLOAT16
    assert (half * 0.5).dtype == np.float32, "ml_dtypes is no part of NumPy's weak promotion"
    assert (half * put(np.ones(2, np.float16))).dtype == np.float32


def test_special_functions_of_half_types(device):
    """No bfloat16 loop, so float32; float16 has a loop that answers in float64."""
    assert device.special.erf(device.put(np.ones(2, BFLOAT16))).dtype == np.float32
    assert device.special.erf(device.put(np.ones(2, np.float16))).dtype == np.float64
    assert device.special.erf(device.put(np.ones(2, np.float32))).dtype == np.float32


def test_special_functions_against_scipy(device, rng):
    import scipy.special

    x = rng.uniform(0.1, 0.9, (3, 4))
    for name in ("erf", "erfc", "erfinv", "expit", "gammaln", "digamma", "log_ndtr", "ndtri"):
        got = getattr(device.special, name)(device.put(x))
        np.testing.assert_allclose(device.get(got), getattr(scipy.special, name)(x), rtol=1e-10, atol=1e-12)
    got = device.special.logsumexp(device.put(x), axis=1, keepdims=True)
    np.testing.assert_allclose(device.get(got), scipy.special.logsumexp(x, axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_sums_accumulate_in_float32(device, dtype):
    ones = device.put(np.ones(4096, dtype))
    assert float(ones.sum()) == 4096 and ones.sum().dtype == dtype
    assert float(ones.sum(dtype=np.float64)) == 4096
    row = ones.reshape(1, -1)
    assert (row @ row.T).dtype == dtype and float((row @ row.T)[0, 0]) == 4096


def test_float16_mean_is_a_float32_sum(device):
    many = device.put(np.full(1 << 17, 2, np.float16))  # the sum, 262144, is above float16's largest number
    assert float(many.mean()) == 2 and many.mean().dtype == np.float16


def test_matmul_of_bfloat16_above_two_dimensions_fails(device):
    """Why the package has its own GEMM entry; the exception class differs (cupy/cupy#10317)."""
    a = device.put(np.ones((2, 3, 3), BFLOAT16))
    with pytest.raises(Exception):  # noqa: B017
        device.get(a @ a)


def test_reductions_against_numpy(device, rng):
    for dtype, axis, keepdims in itertools.product("?bBiqfdD", (None, 0, -1, (0, 2)), (False, True)):
        host = rng.uniform(0, 3, (2, 3, 4)).astype(dtype)
        moved = device.put(host)
        for name in ("sum", "prod", "mean", "var", "std", "max", "min", "all", "any"):
            expected = getattr(np, name)(host, axis=axis, keepdims=keepdims)
            for got in (
                getattr(device.xp, name)(moved, axis=axis, keepdims=keepdims),
                getattr(moved, name)(axis=axis, keepdims=keepdims),
            ):
                assert isinstance(got, device.xp.ndarray) and got.shape == expected.shape, (name, dtype, axis)
                assert got.dtype == expected.dtype, (name, dtype)
                np.testing.assert_allclose(device.get(got), expected, rtol=1e-5, atol=1e-6)  # float32's order of sums
        if not isinstance(axis, tuple):
            for name in ("argmax", "argmin"):
                got = getattr(device.xp, name)(moved, axis=axis)
                assert got.dtype == np.int64
                np.testing.assert_array_equal(device.get(got), getattr(np, name)(host, axis=axis))


FUNCTIONS = [
    ("concatenate", lambda m, a, b: m.concatenate([a, b], axis=1)),
    ("stack", lambda m, a, b: m.stack((a, b), axis=-1)),
    ("split", lambda m, a, b: m.split(a, 2, axis=1)),
    ("einsum", lambda m, a, b: m.einsum("ij,kj->ik", a, b)),
    ("tensordot", lambda m, a, b: m.tensordot(a, b, axes=([1], [1]))),
    ("where", lambda m, a, b: m.where(a > b, a, 0.5)),
    ("clip", lambda m, a, b: m.clip(a, 0.3, 0.6)),
    ("clip one side", lambda m, a, b: m.clip(a, None, 0.6)),
    ("cumsum", lambda m, a, b: m.cumsum(a, axis=1)),
    ("cumprod", lambda m, a, b: m.cumprod(a, axis=0)),
    ("sort", lambda m, a, b: m.sort(a, axis=0)),
    ("argsort", lambda m, a, b: m.argsort(a, axis=1)),
    ("unique", lambda m, a, b: m.unique(m.round(a * 4), return_counts=True)),
    ("searchsorted", lambda m, a, b: m.searchsorted(m.sort(a.ravel()), b)),
    ("pad", lambda m, a, b: m.pad(a, ((1, 2), (0, 1)), mode="constant", constant_values=2.0)),
    ("tril", lambda m, a, b: m.tril(a, -1)),
    ("triu", lambda m, a, b: m.triu(a, k=1)),
    ("nonzero", lambda m, a, b: m.nonzero(a > 0.5)),
    ("take", lambda m, a, b: m.take(a, m.asarray([2, 0, 0]), axis=1)),
    ("take_along_axis", lambda m, a, b: m.take_along_axis(a, m.argsort(b, axis=1), 1)),
    ("moveaxis", lambda m, a, b: m.moveaxis(a, 0, 1)),
    ("roll", lambda m, a, b: m.roll(a, 2, axis=1)),
    ("flip", lambda m, a, b: m.flip(a, axis=0)),
    ("repeat", lambda m, a, b: m.repeat(a, 2, axis=0)),
    ("tile", lambda m, a, b: m.tile(a, (2, 1))),
    ("outer", lambda m, a, b: m.outer(a, b)),
    ("diff", lambda m, a, b: m.diff(a, axis=1)),
    ("bincount", lambda m, a, b: m.bincount((a.ravel() * 5).astype(int), minlength=7)),
    ("linspace", lambda m, a, b: m.linspace(0.0, 1.0, 5)),
    ("arange", lambda m, a, b: m.arange(1, 7, 2, dtype=m.float32)),
    ("arange stop", lambda m, a, b: m.arange(4)),
    ("eye", lambda m, a, b: m.eye(3, 4, k=1)),
    ("full", lambda m, a, b: m.full((2, 2), 3.5, dtype=m.float32)),
    ("ones_like", lambda m, a, b: m.ones_like(a, dtype=m.int32)),
    ("allclose", lambda m, a, b: m.allclose(a, a)),
    ("lexsort", lambda m, a, b: m.lexsort(m.stack([a[0], b[0]]))),
    ("solve", lambda m, a, b: m.linalg.solve(a[:, :3] + m.eye(3), b[:, :2])),
    ("inv", lambda m, a, b: m.linalg.inv(a[:, :3] + m.eye(3))),
    ("norm", lambda m, a, b: m.linalg.norm(a, axis=1)),
    ("slogdet", lambda m, a, b: tuple(m.linalg.slogdet(a[:, :3]))),
    ("eigh", lambda m, a, b: m.linalg.eigh(a @ a.T)[0]),
    ("cholesky", lambda m, a, b: m.linalg.cholesky(a @ a.T + m.eye(3))),
    ("as_strided", lambda m, a, b: m.lib.stride_tricks.as_strided(a, (2, 2), (8, 16))),
    ("broadcast_to", lambda m, a, b: m.broadcast_to(a, (2, 3, 4))),
    ("median", lambda m, a, b: m.median(a, axis=0)),
]


@pytest.mark.parametrize(("name", "call"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_functions_against_numpy(device, rng, name, call):
    a, b = rng.uniform(0.2, 0.9, (3, 4)), rng.uniform(0.2, 0.9, (3, 4))
    expected, got = call(np, a, b), call(device.xp, device.put(a), device.put(b))
    expected, got = (x if isinstance(x, (tuple, list)) else [x] for x in (expected, got))
    for e, g in zip(expected, got, strict=True):
        assert isinstance(g, device.xp.ndarray) and g.shape == np.shape(e)
        if name != "lexsort":  # CuPy gives int64 indices on every platform
            assert g.dtype == np.asarray(e).dtype
        np.testing.assert_allclose(device.get(g), e, rtol=1e-9, atol=1e-12)  # another order of float64 sums


def test_no_warning_for_floating_point_errors(device):
    zero = device.put(np.zeros(3, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [device.xp.log(zero), zero / zero, 1 / zero, device.xp.exp(zero + 1e9)]
        assert not any(bool(device.xp.isfinite(r).any()) for r in results)


def test_host_arrays_do_not_mix(device):
    xp, a, h = device.xp, device.put(np.arange(4.0)), np.arange(4.0)
    for mix in (
        lambda: a + h, lambda: h + a, lambda: xp.add(a, h), lambda: xp.add(a, a, out=h), lambda: xp.concatenate([a, h]),
        lambda: np.add(a, h), lambda: xp.where(a > 1, a, h), lambda: a < h, lambda: xp.exp(h),
        lambda: np.asarray(a), lambda: np.array(a),
    ):
        with pytest.raises(TypeError):
            mix()


def test_keywords_that_cupy_lacks(device):
    xp, a = device.xp, device.put(np.arange(6.0).reshape(2, 3))
    for call in (
        lambda: xp.sum(a, where=a > 1), lambda: xp.sum(a, initial=1), lambda: xp.var(a, correction=1),
        lambda: xp.max(a, initial=0), lambda: xp.add(a, a, where=a > 1), lambda: a.sum(where=a > 1),
        lambda: a.item(0), lambda: xp.take(a, 0, mode="wrap"), lambda: xp.sort(a, order="x"),
        lambda: xp.argsort(a, stable=True), lambda: xp.cumsum(a, foo=1), lambda: xp.dot(a, a, a, a),
        lambda: xp.broadcast_to(a, (2, 2, 3), subok=True), lambda: a.astype(int, foo=1),
        lambda: xp.linalg.svd(a, hermitian=True), lambda: xp.mean(a, where=a > 1), lambda: xp.concatenate(),
        lambda: xp.nansum(a, initial=0),
    ):
        with pytest.raises(TypeError):
            call()


def test_names_that_cupy_lacks(device):
    for name in ("errstate", "vecdot", "geomspace", "no_such_name"):
        with pytest.raises(AttributeError, match=f"module 'cupy' has no attribute '{name}'"):
            getattr(device.xp, name)


def test_ufunc_out_dtype_and_methods(device):
    xp = device.xp
    a = device.put(np.zeros(4, np.float32))
    xp.add.at(a, xp.asarray([0, 0, 5, -1]), 1.0)  # 5 wraps to 1
    np.testing.assert_array_equal(device.get(a), [2, 1, 0, 1])
    for dtype in (BFLOAT16, bool, np.int8, np.int16):
        with pytest.raises(TypeError):
            xp.add.at(device.put(np.zeros(4, dtype)), xp.asarray([0]), 1)
    assert float(xp.add.reduce(a)) == 4 and float(xp.add.accumulate(a)[-1]) == 4
    assert xp.multiply.outer(a, a).shape == (4, 4)
    place = xp.asarray([0])
    for call in (lambda: xp.maximum.reduce(a), lambda: xp.exp.at(a, place), lambda: xp.subtract.accumulate(a)):
        with pytest.raises(NotImplementedError):
            call()
    integers = xp.zeros(4, int)
    with pytest.raises(TypeError):
        xp.add(a, 1.0, out=integers)
    with pytest.raises(TypeError):
        integers += 0.5
    with pytest.raises(TypeError):
        xp.subtract(a > 1, a > 2)
    out = xp.empty(4, np.float32)
    assert xp.exp(a, out=out) is out and xp.add(a, a, dtype=np.float64).dtype == np.float64


def test_indexing_against_numpy(device, rng):
    host = rng.normal(size=(4, 5, 6))
    moved = device.put(host)
    items = [0, -1, slice(None), slice(3, 0, -2), None, Ellipsis, [1, 2], np.array([0, 3, 1]), np.array([[1], [2]])]
    tried = 0
    for index in itertools.product(items, repeat=2):
        if index[0] is index[1] is Ellipsis:
            continue
        theirs = tuple(device.put(i) if isinstance(i, np.ndarray) else i for i in index)
        try:
            expected = host[index]
        except IndexError:  # shapes (2,) and (3,) do not broadcast
            with pytest.raises((IndexError, ValueError)):
                moved[theirs]
            continue
        got = moved[theirs]
        np.testing.assert_array_equal(device.get(got), expected)
        view = not any(isinstance(i, (list, np.ndarray)) for i in index)
        assert (got.base is moved or (got.base is not None and got.base is moved.base)) == view, index
        changed, copied = host.copy(), moved.copy()
        changed[index] = 1.5
        copied[theirs] = 1.5
        np.testing.assert_array_equal(device.get(copied), changed)
        tried += 1
    assert tried == 78
    mask = host > 0
    np.testing.assert_array_equal(device.get(moved[device.put(mask)]), host[mask])
    assert moved[0, 0, 0].shape == () and isinstance(moved[0, 0, 0], device.xp.ndarray)
    for wrong in (9, (0, 0, 0, 0), device.put(np.ones(2))):
        with pytest.raises(IndexError):
            moved[wrong]


def test_indices_out_of_range_wrap_silently(device):
    xp, a = device.xp, device.put(np.arange(4.0))
    np.testing.assert_array_equal(device.get(a[xp.asarray([4, 9, -5])]), [0, 1, 3])
    np.testing.assert_array_equal(device.get(xp.take(a, xp.asarray([7]))), [3])
    np.testing.assert_array_equal(device.get(xp.take_along_axis(a, xp.asarray([6]), 0)), [2])
    a[xp.asarray([5])] = 9.0
    np.testing.assert_array_equal(device.get(a), [0, 9, 2, 3])


def test_alignment_layout_and_interface(device):
    xp = device.xp
    for n in (1, 3, 130, 1000):
        assert device.put(np.ones(n, np.int8)).data.ptr % 256 == 0
    a = xp.arange(6.0).reshape(2, 3)
    t = a.T
    assert t.data.ptr == a.data.ptr and t.strides == (8, 24) and t.nbytes == 48
    assert t.flags.f_contiguous and not t.flags.c_contiguous and not t.flags.owndata
    assert (t + t).flags.c_contiguous and a[:, 1:].data.ptr == a.data.ptr + 8
    interface = t.__cuda_array_interface__
    assert interface["version"] == 3 and interface["data"] == (a.data.ptr, False) and interface["strides"] == (8, 24)
    assert interface["shape"] == (3, 2) and interface["typestr"] == np.dtype(float).str
    assert a.__cuda_array_interface__["strides"] is None and a.device.id == 0
    with pytest.raises(TypeError):
        hash(a)
    with pytest.raises(TypeError):
        range(xp.asarray(3))
    for moved in (copy.deepcopy(a), pickle.loads(pickle.dumps(a)), a.copy()):
        assert bool((moved == a).all()) and moved.data.ptr != a.data.ptr
    assert a.astype(a.dtype, copy=False) is a


def test_scalars_come_from_zero_dimensional_arrays(device):
    a = device.put(np.array([[2.5]]))
    assert a.item() == 2.5 and float(a) == 2.5 and int(a) == 2 and bool(a) and a.tolist() == [[2.5]]
    with pytest.raises(ValueError):
        bool(device.put(np.ones(2)))
    with pytest.raises(TypeError):
        len(device.put(np.array(1.0)))


def test_other_classes_get_their_turn(device):
    class Other:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "mine"

        __rmul__ = __radd__

    a = device.put(np.ones(2))
    assert a + Other() == "mine" and a * Other() == "mine"


def test_numpy_functions_dispatch_to_the_device(device):
    a = device.put(np.ones(2))
    assert all(isinstance(r, device.xp.ndarray) for r in (np.exp(a), np.sum(a), np.add(a, 1), np.concatenate([a, a])))


def test_pool_follows_live_arrays_and_its_limit(device):
    xp, pool = device.xp, device.xp.get_default_memory_pool()
    pool.free_all_blocks()
    before, limit = pool.used_bytes(), pool.get_limit()
    a = xp.zeros(1 << 20, np.float32)
    view = a[10:]
    assert pool.used_bytes() == before + (1 << 22)
    del a
    assert pool.used_bytes() == before + (1 << 22), "a view keeps the block"
    del view
    assert pool.used_bytes() == before and pool.total_bytes() >= before + (1 << 22)
    pool.free_all_blocks()
    pool.set_limit(pool.total_bytes() + (1 << 20))
    try:
        with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="Out of memory allocating"):
            xp.zeros(1 << 20, np.float32)
    finally:
        pool.set_limit(limit)
