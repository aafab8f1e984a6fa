"""The simulated device's own behaviour: every ufunc loop, host arrays refused, pool, failures, counters.

What it shares with CuPy is stated in `conformance/`, which runs on both.
"""

from __future__ import annotations

import gc
import threading
import warnings

import ml_dtypes
import numpy as np
import pytest

from tinytorch_gpu.backend import memory, simulated
from tinytorch_gpu.backend.simulated.pool import MemoryPool
from tinytorch_gpu.backend.simulated.table import BFLOAT16, MODULES

xp, special = simulated.xp, simulated.special
put = simulated.asarray_from_host


def sample(dtype, shape=(3, 4), seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(1, 5, shape).astype(dtype)
    values = rng.uniform(0.2, 0.9, shape)
    if dtype.kind == "c":
        values = values + 1j * rng.uniform(0.2, 0.9, shape)
    return values.astype(dtype)


# arithmetic

# loops that CuPy lists and NumPy cannot compute: the simulation raises
ONLY_CUPY = {
    "c": {"arctan2", "atan2", "copysign", "hypot", "nextafter", "i0"},
}


@pytest.mark.parametrize("name", sorted(n for n in MODULES[""]["ufuncs"]))
def test_ufunc_gives_numpys_numbers_in_cupys_types(name):
    ufunc = getattr(xp, name)
    reference = getattr(np, name)
    for loop in ufunc._loops:
        if loop.error is not None or (name, loop.inputs[0].kind) in {("power", "b")}:
            continue
        host = [sample(d, seed=i) for i, d in enumerate(loop.inputs)]
        if name in ONLY_CUPY.get(loop.inputs[0].kind, ()):
            with pytest.raises(TypeError):
                ufunc(*map(put, host))
            continue
        results = ufunc(*map(put, host))
        results = results if isinstance(results, tuple) else (results,)
        assert tuple(r.dtype for r in results) == loop.outputs
        wide = [h.astype(np.float32) if h.dtype in (BFLOAT16, np.float16) else h for h in host]
        with np.errstate(all="ignore"):
            expected = reference(*wide)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for r, e, d in zip(results, expected, loop.outputs, strict=True):
            # one rounding to the result's type, NumPy's own half loops may round once more
            tolerance = {2: 2e-2 if d == BFLOAT16 else 2e-3}.get(d.itemsize, 1e-5) if d.kind in "fcV" else 0
            np.testing.assert_allclose(r.get().astype(np.complex128), np.asarray(e).astype(np.complex128),
                                       rtol=tolerance, atol=tolerance, err_msg=f"{name} {loop.inputs}")


@pytest.mark.parametrize("name", ["erf", "erfc", "erfinv", "expit", "gammaln", "digamma", "log_ndtr", "ndtri", "xlogy"])
def test_special_functions(name):
    scipy_special = pytest.importorskip("scipy.special")
    ufunc = getattr(special, name)
    for dtype in (np.float32, np.float64):
        host = [sample(dtype, seed=i) for i in range(ufunc.nin)]
        got = ufunc(*map(put, host))
        assert got.dtype == dtype
        np.testing.assert_allclose(got.get(), getattr(scipy_special, name)(*host), rtol=1e-5)
    # CuPy's special functions have no bfloat16 loop: the result is float32, and float16 goes through float64
    assert special.erf(put(sample(BFLOAT16))).dtype == np.float32
    assert special.erf(put(sample(np.float16))).dtype == np.float64
    x = sample(np.float32)
    np.testing.assert_allclose(special.logsumexp(put(x), axis=1).get(), scipy_special.logsumexp(x, axis=1), rtol=1e-6)


def test_no_warning_where_a_gpu_gives_none():
    zero = put(np.zeros(3, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for quiet in (
            lambda: xp.arange(3) // xp.zeros(3, int), lambda: xp.mean(xp.ones(0)), lambda: xp.var(xp.ones(0)),
            lambda: put(np.array([np.nan])).astype(int), lambda: zero**-1.0, lambda: xp.linalg.norm(zero + 3e38),
            lambda: special.xlogy(zero, zero), lambda: put(np.ones(2, np.float16)) * 60000 * 2,
        ):
            quiet()
        zero[...] = np.inf
        assert bool(xp.isnan(xp.sqrt(zero - np.inf)).all())


def test_singular_matrices_give_nan_not_an_error():
    singular = put(np.zeros((2, 2)))
    assert bool(xp.isnan(xp.linalg.inv(singular)).all())
    assert bool(xp.isnan(xp.linalg.cholesky(singular - xp.eye(2))).any())


# strictness


def test_host_arrays_are_refused_where_cupy_would_copy_them():
    """CuPy copies a host array that is an index or an assigned value; here each such place is a mistake that shows."""
    a, h, index = put(np.arange(4.0)), np.arange(4.0), np.array([0])
    for mix in (
        lambda: a[index], lambda: a[[index]], lambda: a.__setitem__(0, h), lambda: a.__setitem__(index, 1.0),
        lambda: a.take(index), lambda: xp.take(a, index), lambda: xp.put(a, index, 1.0), lambda: xp.sum(h),
        lambda: xp.sum(a, out=h), lambda: xp.sum([1, 2]), lambda: xp.einsum("i,i", a, h), lambda: a @ h, lambda: h @ a,
        lambda: xp.add.at(a, index, 1.0), lambda: xp.linalg.norm(h), lambda: xp.copyto(a, h), lambda: a.fill(h),
        lambda: xp.add.at(a, xp.array([0]), h), lambda: np.concatenate([a, h]), lambda: xp.tensordot(a, h, 1),
        lambda: xp.zeros_like(h), lambda: np.add(a, 1, out=h), lambda: a.__iadd__(h), lambda: xp.clip(a, h, None),
    ):
        with pytest.raises(TypeError):
            mix()


def test_every_function_refuses_host_arrays():
    """One array argument, no matter which function: nothing reads host memory by accident."""
    host = np.ones((2, 2))
    converts = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "asnumpy", "get_array_module"}
    # these look at a value's kind, not at its elements
    kinds = {"isscalar", "iterable", "result_type", "can_cast", "full", "min_scalar_type", "common_type"}
    asked = 0
    for name in MODULES[""]["functions"]:
        function = getattr(xp, name, None)
        if function is None or name in converts | kinds or MODULES[""]["functions"][name].startswith(("*", "shape")):
            continue
        try:
            function(host)
        except (TypeError, ValueError, AttributeError):
            asked += 1
        else:
            raise AssertionError(f"xp.{name} took a host array")
    assert asked > 150


def test_names_that_are_not_simulated_say_so():
    with pytest.raises(AttributeError, match="the simulated device does not"):
        _ = xp.genfromtxt
    with pytest.raises(AttributeError, match=r"module 'cupyx\.scipy\.special' has no attribute 'nope'"):
        _ = special.nope
    with pytest.raises(AttributeError, match="writeable"):
        _ = put(np.ones(2)).flags.writeable


def test_scatter_add_refuses_what_atomics_do_not_have():
    for dtype in (BFLOAT16, bool, np.int8, np.int16, np.int64):
        with pytest.raises(TypeError, match="scatter_add only supports"):
            xp.add.at(put(np.zeros(4, dtype)), xp.array([0]), 1)
    masked = put(np.zeros(4, np.int16))
    xp.add.at(masked, put(np.array([True, False, True, False])), 2)  # a mask names no place twice
    np.testing.assert_array_equal(masked.get(), [2, 0, 2, 0])
    np.testing.assert_array_equal(xp.add.reduceat(put(np.arange(4.0)), xp.array([0, 2])).get(), [1, 5])
    with pytest.raises(OverflowError):
        put(np.ones(2, np.int8)) + 300


def test_a_class_without_array_protocol_gets_its_turn():
    class Tensor:
        def __radd__(self, other):
            return "mine"

        __rmatmul__ = __rmul__ = __radd__

    a = put(np.ones(2))
    assert a + Tensor() == a @ Tensor() == a * Tensor() == "mine"
    with pytest.raises(TypeError):
        a + "text"


def test_writing_functions_and_methods():
    a = put(np.arange(6.0).reshape(2, 3))
    xp.copyto(a, 1.0, where=a > 3)
    np.testing.assert_array_equal(a.get(), [[0, 1, 2], [3, 1, 1]])
    xp.put_along_axis(a, xp.array([[5], [0]]), xp.array([[7.0], [8.0]]), 1)  # 5 wraps to 2
    np.testing.assert_array_equal(a.get(), [[0, 1, 7], [8, 1, 1]])
    xp.fill_diagonal(a, 5.0)
    a.sort(axis=1)
    np.testing.assert_array_equal(a.get(), [[1, 5, 7], [1, 5, 8]])
    a.put(xp.array([0, 9]), xp.array([-1.0, -2.0]))
    a.set(a.get() * 2)
    np.testing.assert_array_equal(a.get(), [[-2, 10, 14], [-4, 10, 16]])
    a.shape = (3, 2)
    assert a.shape == (3, 2)
    with pytest.raises(TypeError, match="Cannot cast"):
        xp.copyto(put(np.zeros(2, int)), put(np.ones(2)))
    z = put(np.array([1 + 2j]))
    z.imag = 5.0
    assert z.item() == 1 + 5j and z.real.base is z and put(np.ones(1)).imag.item() == 0


def test_unwritten_memory_is_seen():
    assert np.isnan(xp.empty(8).get()).all() and np.isnan(xp.empty_like(put(np.ones(2, np.float16))).get()).all()
    assert (xp.empty(3, np.int32).get() == -1).all() and xp.empty(3, bool).get().all()


# memory


def test_pool_follows_live_arrays():
    simulated.empty_cache()
    gc.collect()
    gc.disable()
    try:
        before = simulated.memory_stats()["current"]
        simulated.reset_peak()
        a = xp.zeros(1 << 16, np.float32)
        view = a[10:].reshape(-1, 2)
        assert simulated.memory_stats()["current"] == before + (1 << 18)
        del a
        assert simulated.memory_stats()["current"] == before + (1 << 18), "a view keeps the block"
        del view
        stats = simulated.memory_stats()
        assert stats["current"] == before
        assert stats["peak"] == before + (1 << 18) <= stats["held"]
        simulated.empty_cache()
        assert simulated.memory_stats()["held"] == before
    finally:
        gc.enable()


def test_limit_and_failure_on_demand():
    simulated.empty_cache()
    held = simulated.memory_stats()["held"]
    simulated.set_limit(held + 10_000)
    try:
        xp.zeros(1000)
        with pytest.raises(simulated.OutOfMemoryError, match="Out of memory allocating 80,384 bytes"):
            xp.zeros(10_000)
        assert issubclass(simulated.OutOfMemoryError, MemoryError)
        xp.zeros(1000)
    finally:
        simulated.set_limit(None)
    simulated.fail_next_allocation(after=1)
    xp.zeros(3)
    with pytest.raises(simulated.OutOfMemoryError):
        xp.zeros(3)
    xp.zeros(3)


def test_pool_counts_under_threads():
    pool = MemoryPool()

    def work():
        for n in range(300):
            kept = [pool.malloc(512 * (1 + n % 5)) for _ in range(3)]
            del kept

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert pool.used_bytes() == 0 and pool.total_bytes() == pool.free_bytes() > 0


def test_counters():
    a = put(np.arange(4.0))
    with simulated.counters() as c:
        b = xp.exp(a * 2)
        b[0] = 1.0
        b = b[1:].reshape(1, -1)
        assert (c.host_to_device, c.device_to_host, c.synchronizations) == (0, 0, 0)
        assert c.allocations == 2 and c.allocated_bytes == 1024
        simulated.asarray_from_host(np.ones(2))
        assert c.host_to_device == 1
        reads = lambda: float(a.sum()), lambda: bool(a[0] == 0), a.tolist, a[1].item, lambda: simulated.to_host(a)
        for read in reads:
            read()
        assert c.device_to_host == 5 and c.synchronizations == 5
        simulated.synchronize()
        xp.nonzero(a)
        xp.where(a > 1)
        _ = a[a > 1]
        assert c.synchronizations == 9 and c.device_to_host == 5
    xp.nonzero(a)
    assert c.synchronizations == 9, "closed counters stand still"


@pytest.mark.parametrize("tracing", [False, True])
def test_host_memory_statistics(tracing):
    import tracemalloc

    was = tracemalloc.is_tracing()
    if tracing and not was:
        tracemalloc.start()
    try:
        before = memory.cpu_memory_stats()
        block = np.ones(4_000_000)
        after = memory.cpu_memory_stats()
        assert after["source"] == ("tracemalloc" if tracing or was else "process")
        # the allocator may already hold resident pages that a test before this one freed
        assert after["current"] >= before["current"] + (block.nbytes if tracing else 0)
        assert after["peak"] >= after["current"] > block.nbytes // 2
        if tracing:
            del block
            assert memory.reset_cpu_peak()
            assert memory.cpu_memory_stats()["peak"] < after["peak"]
    finally:
        if tracing and not was:
            tracemalloc.stop()


def test_half_products_are_exact_float32_sums():
    a = put(np.full((1, 4096), 1, ml_dtypes.bfloat16))
    assert float((a @ a.T)[0, 0]) == 4096
    assert float(xp.einsum("ij,ij->i", a, a)[0]) == 4096
    assert xp.tensordot(a, a, axes=([1], [1])).dtype == BFLOAT16
