"""The emulator of CUDA: real kernels against NumPy, planted faults of every class, the cache, both fiber switches."""
from __future__ import annotations

import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tinytorch_gpu.backend.simulated import asarray_from_host, emulator, to_host, xp
from tinytorch_gpu.backend.simulated.emulator import KernelFault, Module, OutsideVocabulary, build, verify

if emulator.unavailable():
    pytest.skip(emulator.unavailable(), allow_module_level=True)

FOLDER = Path(__file__).parent / "emulator_kernels"
REAL = (FOLDER / "real.cu").read_text(encoding="utf-8")
PLANTED = (FOLDER / "planted.cu").read_text(encoding="utf-8")
TEMPLATES = ("add<float>", "add<__half>", "add<__nv_bfloat16>", "transposed<float>", "transposed<unsigned char>",
             "half_functions<__half>", "half_functions<__nv_bfloat16>")
bfloat16 = np.dtype(ml_dtypes.bfloat16)
i32, i64 = np.int32, np.int64


@pytest.fixture(scope="module", params=["fast", "check"])
def real(request):
    return Module(REAL, name_expressions=TEMPLATES, check=request.param == "check", file="real.cu")


@pytest.fixture(scope="module")
def checked():
    return Module(REAL, name_expressions=TEMPLATES, check=True, file="real.cu")


@pytest.fixture(scope="module")
def planted():
    return {check: Module(PLANTED, check=check, file="planted.cu") for check in (False, True)}


def dev(array, dtype=None):
    return asarray_from_host(np.asarray(array, dtype))


def unwritten(shape, dtype):
    return xp.empty(shape, np.dtype(dtype))


def equal(array, expected):
    np.testing.assert_array_equal(to_host(array), expected)


@pytest.mark.parametrize("kind, name", [(np.float32, "float"), (np.float16, "__half"), (bfloat16, "__nv_bfloat16")])
@pytest.mark.parametrize("n, shift", [(1, 0), (7, 0), (8, 0), (1000, 0), (4099, 0), (1000, 1)])
def test_add_with_vectors_and_tails(real, rng, kind, name, n, shift):
    a, b = (dev(rng.standard_normal(n + shift).astype(kind))[shift:] for _ in range(2))
    c = unwritten(n + shift, kind)[shift:]
    real.get_function(f"add<{name}>")((-(-n // 1024),), (256,) if n > 8 else (32,), (a, b, c, i64(n)))
    # halves: the float sum rounded once is NumPy's own result
    equal(c, to_host(a) + to_host(b))


def test_accesses_of_two_sizes(real):
    y = unwritten(64, np.float32)
    real.get_function("finer")((1,), (64,), (dev(np.arange(128), np.float16), y))
    equal(y, np.arange(0, 128, 2))


def test_softmax_rows(real, rng):
    x = rng.standard_normal((9, 333)).astype(np.float32)
    y = unwritten(x.shape, np.float32)
    real.get_function("softmax")((9,), (128,), (dev(x), y, i32(333)), shared_mem=333 * 4)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    # float32: 333 terms in a tree, one division
    np.testing.assert_allclose(to_host(y), e / e.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("kind, name", [(np.float32, "float"), (np.uint8, "unsigned char")])
def test_transposition(real, rng, kind, name):
    x = rng.integers(0, 200, (70, 45)).astype(kind)
    y = unwritten((45, 70), kind)
    real.get_function(f"transposed<{name}>")((2, 3), (32, 8), (dev(x), y, i32(70), i32(45)))
    equal(y, x.T)


def test_histogram(real, rng):
    x = rng.integers(0, 64, 5000)
    counts = xp.zeros(64, np.uint32)
    real.get_function("histogram")((5,), (96,), (dev(x, i32), counts, i32(5000)))
    equal(counts, np.bincount(x, minlength=64))


def test_last_block_adds_the_parts(real, rng):
    x = rng.standard_normal(3000).astype(np.float32)
    y, done = unwritten(1, np.float32), xp.zeros(1, np.uint32)
    real.get_function("total")((7,), (64,), (dev(x), unwritten(7, np.float32), done, y, i32(3000)))
    np.testing.assert_allclose(to_host(y), [x.sum(dtype=np.float64)], atol=1e-3)  # 3000 float32 terms of size 1


def test_exchange_inside_warps(real):
    y = unwritten(512, i32)
    real.get_function("reversed_in_warps")((2,), (256,), (dev(np.arange(512), i32), y))
    equal(y, np.arange(512).reshape(-1, 32)[:, ::-1].ravel())


def test_votes(real, rng):
    x = rng.integers(0, 9, 32)
    y = unwritten((32, 12), i32)
    real.get_function("votes")((1,), (32,), (dev(x, i32), y))
    lanes = np.arange(32)
    expected = np.empty((32, 12), np.int64)
    expected[:, 0], expected[:, 1] = (x > 5).any(), (x > 5).all()
    expected[:, 2] = (x % 2) @ (1 << lanes)
    expected[:, 3] = (x[:, None] == x) @ (1 << lanes)
    expected[:, 4] = 0
    expected[:, 5], expected[:, 6], expected[:, 7] = x.sum(), x.min(), x.max()
    expected[:, 8], expected[:, 9], expected[:, 10] = (x > 5).sum(), (x == 7).any(), 1
    up = np.where(lanes % 8 < 3, lanes, lanes - 3)
    expected[:, 11] = x[up] * 1000 + x[(lanes & ~15) | ((lanes + 1) & 15)]
    equal(y, expected.astype(np.uint32).astype(i32))


def test_all_halves_convert_as_numpy(real):
    bits = np.arange(65536, dtype=np.uint16)
    h, b = bits.view(np.float16), bits.view(bfloat16)
    wide_h, wide_b = unwritten(65536, np.float32), unwritten(65536, np.float32)
    # -1 as bits is NaN of all ones, what an unwritten element looks like: the check build takes it for one
    h, b = h.copy(), b.copy()
    h[-1], b[-1] = h[-2], b[-2]
    real.get_function("widened")((256,), (256,), (dev(h), dev(b), wide_h, wide_b))
    nan = np.isnan(h.astype(np.float32))
    equal(wide_h[dev(~nan)], h[~nan].astype(np.float32))
    assert np.isnan(to_host(wide_h)[nan]).all()
    equal(wide_b, b.astype(np.float32))


def test_floats_round_to_halves_as_numpy(real, rng):
    exponents = rng.uniform(-28, 18, 60000)
    x = (rng.choice([-1, 1], 60000) * 2.0**exponents).astype(np.float32)
    ties = np.arange(0, 30000, 1, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (ties[:-1].astype(np.float64) + ties[1:]) / 2
    x = np.concatenate([x, ties.astype(np.float32), np.float32([0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520])])
    h, b = unwritten(x.size, np.float16), unwritten(x.size, bfloat16)
    real.get_function("narrowed")((-(-x.size // 256),), (256,), (dev(x), h, b, i32(x.size)))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(to_host(h).view(np.uint16), x.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(to_host(b).view(np.uint16), x.astype(bfloat16).view(np.uint16))


@pytest.mark.parametrize("kind, name", [(np.float16, "__half"), (bfloat16, "__nv_bfloat16")])
def test_half_functions(real, rng, kind, name):
    a, b, c = (rng.standard_normal(64).astype(kind) for _ in range(3))
    fma, root, total = unwritten(64, kind), unwritten(64, kind), xp.zeros(1, kind)
    real.get_function(f"half_functions<{name}>")((1,), (64,), (dev(a), dev(b), dev(c), fma, root, total))
    wide = [v.astype(np.float64) for v in (a, b, c)]
    equal(fma, (wide[0] * wide[1] + wide[2]).astype(kind))
    equal(root, np.sqrt(np.abs(a.astype(np.float32))).astype(kind))
    equal(total, [64])


def test_arithmetic(real):
    y, u = unwritten(8, np.float32), unwritten(8, np.uint32)
    real.get_function("numbers")((1,), (1,), (dev([4, 0.5, 0.3, 1.2], np.float32), y, u))
    expected = [0.5, 0.5204998778, np.tanh(0.3), np.exp(1.2), 1.5, 6.5, 2, 4]
    np.testing.assert_allclose(to_host(y), expected, rtol=1e-6)
    equal(u, np.uint32([0x3F800000, 8 + 31 + 4, 0x80000000, 3, 0x77553311, 1, 0x7FFFFFFF, 3]))


def test_atomics(real):
    i, u = dev([0, 0, 0, 0], i32), dev([0, 0, 0, 0], np.uint32)
    wide, f, d = xp.zeros(65, np.uint64), xp.zeros(2, np.float32), xp.zeros(1, np.float64)
    step = np.array((0.5, 0.25), dtype=[("x", "f4"), ("y", "f4")])[()]
    real.get_function("atomics")((1,), (64,), (i, u, wide, f, d, step))
    equal(i, [64, -128, -5, 63])
    equal(u, [64 % 10, 6, 0xFFFFFFFF, 0])
    equal(wide, [64 << 33] + [5] * 64)
    equal(f, [32, 4])
    equal(d, [16])


def test_printf(real, capsys):
    real.get_function("says")((1,), (32,), (i32(2),))
    assert sorted(capsys.readouterr().out.splitlines()) == ["thread 0 says hello 1.50", "thread 1 says hello 1.50"]


def test_addresses_inside_arguments(real):
    places = [xp.zeros(n, np.float32) for n in (3, 40, 5)]
    sizes = np.int32([p.size for p in places])
    addresses = np.uint64([p.data.ptr for p in places])
    real.get_function("by_addresses")((3,), (64,), (dev(addresses), dev(sizes)))
    table = np.zeros((), dtype=[("place", "u8", 3), ("size", "i4", 3), ("pad", "i4")])
    table["place"], table["size"] = addresses, sizes
    real.get_function("by_table")((3,), (64,), (table[()],))
    for place in places:
        equal(place, np.full(place.size, 2))


def test_constants_of_the_module(real):
    y = unwritten(8, np.float32)
    real.get_function("weighted")((1,), (8,), (dev(np.ones(8), np.float32), y))
    equal(y, [1, 2, 3, 4, 1, 2, 3, 4])


@pytest.mark.parametrize("name", ["add<float>", "softmax", "transposed<float>", "total", "reversed_in_warps"])
def test_right_kernels_pass_verify(checked, rng, name):
    x = rng.standard_normal((3, 100)).astype(np.float32)
    cases = {
        "add<float>": ((3,), (32,), (dev(x), dev(x), unwritten((3, 100), np.float32), i64(300)), 0, (2,)),
        "softmax": ((3,), (64,), (dev(x), unwritten((3, 100), np.float32), i32(100)), 400, (1,)),
        "transposed<float>": ((4, 1), (32, 8), (dev(x), unwritten((100, 3), np.float32), i32(3), i32(100)), 0, (1,)),
        "total": ((3,), (64,), (dev(x), unwritten(3, np.float32), xp.zeros(1, np.uint32), unwritten(1, np.float32),
                                i32(300)), 0, (1, 3)),
        "reversed_in_warps": ((2,), (64,), (dev(np.arange(128), i32), unwritten(128, i32)), 0, (1,)),
    }
    grid, block, args, shared, outputs = cases[name]
    verify(checked.get_function(name), grid, block, args, shared, outputs)
    assert checked.get_function(name)(grid, block, args, shared) is None if name != "total" else True


def line_of(name):
    (line,) = [n for n, text in enumerate(PLANTED.splitlines(), 1) if re.search(rf"// {name}$", text)]
    return line


def f32(n):
    return dev(np.ones(n), np.float32)


FAULTS = [
    # kernel, kind, words of the message, block size, arguments, grid, dynamic shared bytes
    ("past_end", "bounds", "argument 0", 32, lambda: (f32(40), f32(40), i32(40)), 2, 0),
    ("before_start", "bounds", "4 bytes before the start of argument 0", 32, lambda: (f32(32), f32(32)), 1, 0),
    ("wild", "bounds", "no argument", 1, lambda: (f32(1),), 1, 0),
    ("null_pointer", "bounds", "no argument", 4, lambda: (None, f32(4)), 1, 0),
    ("half_past_end", "bounds", "0 bytes past the end of argument 0", 32,
     lambda: (dev(np.ones(9), np.float16), f32(32), i32(9)), 1, 0),
    ("vector_tail", "bounds", "from byte 32 on, past the end of argument 0", 4,
     lambda: (f32(10), f32(12), i32(10)), 1, 0),
    ("copied_past_end", "bounds", "argument 0", 1, lambda: (f32(9), f32(1), i32(9)), 1, 0),
    ("shared_column", "bounds", "of an array of type 'float [8]'", 32, lambda: (f32(32),), 1, 0),
    ("shared_pointer", "bounds", "past the end of shared array tile", 32, lambda: (f32(32),), 1, 0),
    ("dynamic_past_end", "bounds", "past the end of dynamic shared memory (100 bytes)", 32, lambda: (f32(32),), 1, 100),
    ("local_array", "bounds", "index 4", 2, lambda: (f32(2), i32(3)), 1, 0),
    ("misaligned", "misaligned", "16-byte alignment", 1, lambda: (f32(8), f32(4)), 1, 0),
    ("misaligned_argument", "misaligned", "16-byte alignment", 1, lambda: (f32(8)[1:], f32(4)), 1, 0),
    ("missing_barrier", "race", "planted.cu:", 64, lambda: (dev(np.ones(64), i32), unwritten(64, i32)), 1, 0),
    ("barrier_after_write", "uninitialised", "is a barrier missing", 64,
     lambda: (dev(np.ones(64), i32), unwritten(64, i32)), 1, 0),
    ("write_after_read", "race", "at planted.cu:", 64, lambda: (dev(np.ones(64), i32), unwritten(64, i32)), 1, 0),
    ("shuffle_orders_nothing", "race", "shared array v", 32, lambda: (unwritten(32, i32),), 1, 0),
    ("half_warp_sync", "race", "shared array v", 32, lambda: (unwritten(32, i32),), 1, 0),
    ("blocks_race", "race", "block (0, 0, 0)", 32, lambda: (f32(1),), 2, 0),
    ("plain_and_atomic", "race", "argument 0", 32, lambda: (xp.zeros(1, i32),), 1, 0),
    ("no_fence", "race", "argument 1", 1,
     lambda: (f32(4), unwritten(4, np.float32), xp.zeros(1, np.uint32), unwritten(1, np.float32)), 4, 0),
    ("halves_race", "race", "argument 0", 32, lambda: (unwritten(16, np.float16),), 1, 0),
    ("shared_unwritten", "uninitialised", "shared array v", 64, lambda: (unwritten(64, np.float32),), 1, 0),
    ("dynamic_unwritten", "uninitialised", "dynamic shared memory", 8, lambda: (unwritten(8, np.float32),), 1, 32),
    ("global_unwritten", "uninitialised", "argument 0", 8, lambda: (unwritten(8, np.float32), f32(8)), 1, 0),
    ("barrier_for_some", "barrier", "16 of 32 threads wait", 32, lambda: (f32(32),), 1, 0),
    ("two_barriers", "barrier", "32 of 64 threads wait", 64, lambda: (f32(64),), 1, 0),
    ("early_return", "barrier", "12 have left the kernel", 32, lambda: (f32(32), i32(20)), 1, 0),
    ("barrier_in_loop", "barrier", "32 have left the kernel", 64, lambda: (f32(64),), 1, 0),
    ("shuffle_for_some", "warp", "__shfl_sync", 32, lambda: (unwritten(32, i32),), 1, 0),
    ("not_in_mask", "warp", "leaves out the calling lane 16", 32, lambda: (unwritten(32, i32),), 1, 0),
    ("reads_outside_mask", "warp", "lane 15 reads from lane 16", 32, lambda: (unwritten(32, i32),), 1, 0),
    ("endless_with_memory", "endless", "time limit", 1, lambda: (xp.zeros(1, i32),), 1, 0),
    ("endless_alone", "endless", "time limit", 1, lambda: (xp.zeros(1, i32), np.uint32(0)), 1, 0),
    ("asserts", "assert", "x[threadIdx.x] < 3", 4, lambda: (dev([0, 1, 2, 3], i32),), 1, 0),
    ("divides", "arithmetic", "division by zero", 4, lambda: (xp.zeros(4, i32), i32(2)), 1, 0),
]
IN_FAST = {"barrier", "warp", "endless", "assert", "arithmetic"}  # seen without the hooks


PLANTS = [(*row, check) for row in FAULTS for check in (True, False) if check or row[1] in IN_FAST]


@pytest.mark.parametrize("name, kind, words, block, args, grid, shared, check", PLANTS,
                         ids=[f"{row[0]}-{'check' if row[-1] else 'fast'}" for row in PLANTS])
def test_planted_faults(planted, name, kind, words, block, args, grid, shared, check):
    limit = 0.3 if kind == "endless" else None
    with pytest.raises(KernelFault, match=re.escape(words)) as caught:
        planted[check].get_function(name).launch(grid, block, args(), shared, seconds=limit)
    fault = caught.value.fault
    assert (fault.kind, fault.kernel, fault.file) == (kind, name, "planted.cu"), fault
    place = f"planted.cu:{line_of(name)}"
    if fault.other != place:  # of a race either access may come second
        assert fault.line == line_of(name), fault
    assert str(caught.value).startswith(f"[{name}] planted.cu:{fault.line}: ")


def test_a_fault_names_block_and_thread(planted):
    with pytest.raises(KernelFault, match=r"block \(1, 0, 0\), thread \(8, 0, 0\)"):
        planted[True].get_function("past_end")(2, 32, (f32(40), f32(40), i32(40)))
    with pytest.raises(KernelFault, match=r"thread \(4, 0, 0\)") as caught:
        planted[True].get_function("called_from")(1, 8, (f32(4), i32(4)))
    (caller,) = [n for n, text in enumerate(PLANTED.splitlines(), 1) if text.endswith("// caller")]
    assert caught.value.fault.line == line_of("called_from")
    assert caught.value.fault.calls[0] == f"planted.cu:{caller}"


def test_the_device_works_after_a_fault(planted, checked):
    with pytest.raises(KernelFault):
        planted[True].get_function("barrier_for_some")(1, 32, (f32(32),))
    test_exchange_inside_warps(checked)


@pytest.mark.parametrize("check", [True, False], ids=["check", "fast"])
def test_crashes_become_faults(planted, check):
    with pytest.raises(KernelFault, match="stack overflow") as caught:
        planted[check].get_function("too_deep")(1, 1, (xp.zeros(1, i32),))
    assert caught.value.fault.kind == "stack"
    if not check:
        with pytest.raises(KernelFault, match="crash") as caught:
            planted[False].get_function("null_pointer")(1, 1, (None, f32(1)))
        assert (caught.value.fault.kind, caught.value.fault.line) == ("crash", line_of("null_pointer"))


def test_unwritten_local_memory_holds_no_zeros(planted):
    y = unwritten(1, np.float32)
    planted[True].get_function("local_unwritten")(1, 1, (y, i32(7)))
    assert to_host(y)[0] not in (0, 1)


def test_verify_finds_what_depends_on_the_order():
    source = """
    __global__ void ticket(int* counter, int* y) { y[threadIdx.x] = atomicAdd(counter, 1); }
    __global__ void partly(int* y, int n) { if (threadIdx.x < n) y[threadIdx.x] = 1; }
    __global__ void float_sum(const float* x, float* y) { atomicAdd(y, x[threadIdx.x]); }
    """
    module = Module(source, check=True)
    with pytest.raises(KernelFault, match="depends on the order") as caught:
        verify(module.get_function("ticket"), 1, 64, (xp.zeros(1, i32), unwritten(64, i32)), outputs=(1,))
    assert caught.value.fault.kind == "different results"
    with pytest.raises(KernelFault, match=r"at \(5,\)"):
        verify(module.get_function("partly"), 1, 32, (unwritten(6, i32), i32(5)), outputs=(0,))
    x = dev(np.random.default_rng(0).standard_normal(512), np.float32)
    function = module.get_function("float_sum")
    with pytest.raises(KernelFault, match="different results"):
        verify(function, 1, 512, (x, xp.zeros(1, np.float32)))
    verify(function, 1, 512, (x, xp.zeros(1, np.float32)), exact=False, atol=1e-3)  # 512 float32 terms of size 1
    with pytest.raises(ValueError, match="check=True"):
        verify(Module(source).get_function("ticket"), 1, 1, (xp.zeros(1, i32), xp.zeros(1, i32)))
    with pytest.raises(ValueError, match="outputs"):
        verify(function, 1, 1, (x, x), outputs=(2,))


WRONG = [
    (TypeError, "takes 4 arguments, got 3", lambda a: (a, a, a)),
    (TypeError, "argument 3: int for a int64", lambda a: (a, a, a, 8)),
    (TypeError, "argument 3: int32 for a int64", lambda a: (a, a, a, i32(8))),
    (TypeError, "argument 3: float64 for a int64", lambda a: (a, a, a, np.float64(8))),
    (TypeError, "argument 3: uint64 for a int64", lambda a: (a, a, a, np.uint64(8))),
    (TypeError, "argument 3: an array of float32", lambda a: (a, a, a, a)),
    (TypeError, "argument 1: ndarray for a pointer to float32: pass an array of the simulated device",
     lambda a: (a, to_host(a), a, i64(8))),
    (TypeError, "argument 2: an array of float16 for a pointer to float32",
     lambda a: (a, a, a.astype(np.float16), i64(8))),
    (TypeError, "argument 0: an array of int32 for a pointer to float32", lambda a: (a.astype(i32), a, a, i64(8))),
    (TypeError, "argument 0: int64 for a pointer", lambda a: (i64(8), a, a, i64(8))),
]


@pytest.mark.parametrize("error, words, args", WRONG, ids=[row[1] for row in WRONG])
def test_wrong_arguments(real, error, words, args):
    with pytest.raises(error, match=re.escape(words)):
        real.get_function("add<float>")(1, 32, args(f32(8)))


def test_wrong_launches(real):
    function, args = real.get_function("add<float>"), (f32(8), f32(8), f32(8), i64(8))
    for grid, block, words in [(0, 32, "grid (0, 1, 1)"), (1, 0, "block (0, 1, 1)"), (1, 1025, "at most (1024"),
                               (1, (32, 33), "1056 threads"), ((1, 70000), 32, "grid"), (1, (1, 1, 65), "block"),
                               ((1, 1, 1, 1), 32, "one to three"), (1.5, 32, "grid")]:
        with pytest.raises((ValueError, TypeError), match=re.escape(words) if grid != 1.5 else None):
            function(grid, block, args)
    with pytest.raises(ValueError, match="dynamic shared memory"):
        function(1, 32, args, 49153)
    function.max_dynamic_shared_size_bytes = 100 << 10
    function(1, 32, args, 49153)
    with pytest.raises(LookupError, match=r"no such kernel \(it has"):
        real.get_function("add<double>")
    with pytest.raises(ValueError, match="--frobnicate"):
        Module("", options=("--frobnicate",))


@pytest.mark.parametrize("line, what", [
    ('__global__ void k() { asm volatile("nop;"); }', "inline PTX"),
    ("#include <cooperative_groups.h>\n__global__ void k() {}", "cooperative groups"),
    ("#include <mma.h>\n__global__ void k() { nvcuda::wmma::fragment<int> f; }", "wmma"),
    ("#include <cub/cub.cuh>\n__global__ void k() {}", "CUB"),
    ("__global__ void k(unsigned* y) { *y = __activemask(); }", "__activemask"),
])
def test_outside_the_vocabulary(line, what):
    with pytest.raises(OutsideVocabulary, match=what) as caught:
        Module("// asm(\"in a comment\")\n" + line, file="user.cu").get_function("k")
    assert "user.cu:" in str(caught.value) and "not checked" in str(caught.value)


def test_what_the_preprocessor_leaves_out_is_no_hindrance():
    source = '#ifndef TWIN\n__device__ void f() { asm("nop;"); }\n#else\n__device__ void f() {}\n#endif\n'
    Module(source + "__global__ void k() { f(); }", options=("-DTWIN",)).get_function("k")(1, 1, ())
    with pytest.raises(OutsideVocabulary):
        Module(source + "__global__ void k() { f(); }").get_function("k")


def test_a_syntax_error_names_the_users_line():
    source = "#line 40 \"mine.cu\"\n__global__ void k(int* y) {\n  y[0] = undeclared;\n}\n"
    with pytest.raises(emulator.CompileError, match=r"mine\.cu:41:.*undeclared"):
        Module(source).get_function("k")


def test_kernels_are_found_in_a_source():
    source = """
    // __global__ void commented() {}
    #define MAKE(n) __global__ void made_##n() {}
    template <int N> __global__ void one_of_many(int* y) {}
    namespace inside { __global__ void hidden() {} }
    extern "C" { __global__ void first() {} }
    static __global__ __launch_bounds__(256, (2)) void second(float* x) {}
    extern "C" void __global__ __attribute__((noinline)) third() { if (1) { } }
    """
    assert Module(source).names == ("first", "second", "third")


CODE = """
import sys, numpy as np
from tinytorch_gpu.backend.simulated import asarray_from_host, to_host, xp
from tinytorch_gpu.backend.simulated.emulator import Module
m = Module(open(sys.argv[1]).read(), name_expressions=("add<float>",), check=sys.argv[2] == "check")
x = np.random.default_rng(0).standard_normal((40, 100)).astype(np.float32)
y = xp.empty(x.shape, np.float32)
m.get_function("softmax")((40,), (256,), (asarray_from_host(x), y, np.int32(100)), 400)
print(to_host(y).tobytes().hex()[:4000])
"""


def start(check, **env):
    return subprocess.Popen([sys.executable, "-c", CODE, str(FOLDER / "real.cu"), check], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, **env})


def results(*started):
    ended = [(p, *p.communicate(timeout=100)) for p in started]
    for p, _, errors in ended:
        assert p.returncode == 0, errors
    return [out for _, out, _ in ended]


def test_without_the_hand_written_switch_results_are_the_same():
    assert len(set(results(start("fast"), start("fast", TINYTORCH_EMULATOR_FIBERS="ucontext")))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_launches_and_ends_endless_loops():
    """The thread that ends them does not live on in a forked process: it is started again."""
    code = """
import os, sys, time, numpy as np
from tinytorch_gpu.backend.simulated import xp
from tinytorch_gpu.backend.simulated.emulator import KernelFault, Module
k = Module("__global__ void k(volatile int* x) { while (*x) {} *x = 2; }").get_function("k")
x = xp.zeros(1, np.int32)
k((1,), (1,), (x,))
time.sleep(0.5)  # the watching thread has gone to sleep
if os.fork() == 0:
    try:
        k.launch((1,), (1,), (x,), seconds=0.3)
    except KernelFault as e:
        os._exit(7 if e.fault.kind == "endless" else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr


def test_two_processes_build_at_once_and_a_damaged_entry_is_made_again(tmp_path):
    env = {"TINYTORCH_CACHE": str(tmp_path)}
    first = results(start("fast", **env), start("fast", **env))
    made = sorted((tmp_path / "emulator").glob("*.so"))
    assert len(made) == 2 and first[0] == first[1]  # the runtime and the module
    assert not list((tmp_path / "emulator").glob(".making-*"))
    for path in made:
        path.write_bytes(path.read_bytes()[:1000])
    assert results(start("fast", **env)) == first[:1]


def test_without_a_compiler_the_reason_is_clear(tmp_path):
    code = ("from tinytorch_gpu.backend.simulated import emulator as e\nprint(e.unavailable())\n"
            "try: e.Module('__global__ void k() {}').get_function('k')\nexcept e.EmulatorUnavailable as x: print(x)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "TINYTORCH_CXX": "no-such-g++"})
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2 and lines[0] == lines[1], done.stderr
    assert "no-such-g++ was not found" in lines[0] and "apt install g++" in lines[0]


def test_blocks_over_host_threads(monkeypatch, rng):
    module = Module(REAL, name_expressions=TEMPLATES, file="real.cu")
    x = rng.integers(0, 64, 400_000)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("TINYTORCH_EMULATOR_THREADS", threads)
        counts = xp.zeros(64, np.uint32)
        module.get_function("histogram")((300,), (256,), (dev(x, i32), counts, i32(x.size)))
        found.append(to_host(counts))
    np.testing.assert_array_equal(found[0], np.bincount(x, minlength=64))
    np.testing.assert_array_equal(found[0], found[1])
    monkeypatch.setenv("TINYTORCH_EMULATOR_THREADS", "many")
    with pytest.raises(ValueError, match="TINYTORCH_EMULATOR_THREADS"):
        module.get_function("histogram")((300,), (256,), (dev(x, i32), counts, i32(x.size)))


@pytest.mark.parametrize("check", [False, True], ids=["fast", "check"])
def test_launches_from_two_python_threads(planted, check, rng):
    module = Module(REAL, name_expressions=TEMPLATES, check=check, file="real.cu")
    softmax = module.get_function("softmax")
    x = rng.standard_normal((8, 64)).astype(np.float32)
    e = np.exp(x.astype(np.float64))

    def work(broken):
        for _ in range(30):
            if broken:
                with pytest.raises(KernelFault, match="16 of 32 threads"):
                    planted[check].get_function("barrier_for_some")(1, 32, (f32(32),))
            y = unwritten(x.shape, np.float32)
            softmax((8,), (64,), (dev(x), y, i32(64)), 256)
            np.testing.assert_allclose(to_host(y), e / e.sum(1, keepdims=True), rtol=1e-5)  # 64 float32 terms

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work, broken) for broken in (False, True, False)]:
            future.result(60)


def test_dynamic_shared_memory_in_a_namespace():
    source = """
    namespace mine { template <typename T> __global__ void turned(T* y) {
        extern __shared__ float4 room[];
        T* own = reinterpret_cast<T*>(room);
        own[threadIdx.x] = T(threadIdx.x);
        __syncthreads();
        y[threadIdx.x] = own[blockDim.x - 1 - threadIdx.x];
    } }
    __global__ void other(int* y) {
        extern __shared__ int ints[];
        ints[threadIdx.x] = 3;
        y[threadIdx.x] = ints[threadIdx.x];
    }
    """
    for check in (False, True):
        module = Module(source, name_expressions=("mine::turned<double>",), check=check)
        y = unwritten(8, np.float64)
        module.get_function("mine::turned<double>")(1, 8, (y,), 64)
        equal(y, np.arange(8)[::-1])


def test_the_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYTORCH_CACHE", str(tmp_path))
    calls = []
    run = build.run
    monkeypatch.setattr(build, "run", lambda command, **options: calls.append(command) or run(command, **options))
    source = "__global__ void k(int* y) { y[0] = 4; }"
    Module(source).get_function("k")
    calls.clear()
    Module(source).get_function("k")(1, 1, (xp.zeros(1, i32),))
    assert calls == []
    Module(source, check=True).get_function("k")
    Module(source, options=("-DX=1",)).get_function("k")
    assert calls


def test_traffic_of_each_line():
    source = """__global__ void lines(const float* x, float* y, int stride) {
        __shared__ float tile[32 * 33];
        const int t = threadIdx.x;
        float a = x[t];
        float b = x[t * 8];
        float4 c = ((const float4*)x)[t];
        float d = x[0];
        tile[t * 33] = a;
        tile[t * stride] = b;
        __syncthreads();
        y[t] = a + b + c.x + d + tile[0];
    }"""
    function = Module(source, check=True).get_function("lines")
    rows = emulator.traffic(function, 1, 32, (f32(256), f32(32), i32(33)))
    found = {(row.line, row.space, row.write): (row.requests, row.transfers, row.least) for row in rows}
    assert found == {
        (4, "global", False): (1, 4, 4),
        (5, "global", False): (1, 32, 4),
        (6, "global", False): (1, 16, 16),
        (7, "global", False): (1, 1, 1),
        (8, "shared", True): (1, 1, 1),
        (9, "shared", True): (1, 1, 1),
        (11, "shared", False): (1, 1, 1),
        (11, "global", True): (1, 4, 4),
    }
    conflict = Module("__global__ void k(float* y) { __shared__ float v[1024]; v[threadIdx.x * 32] = 1.f;\n"
                      "__syncthreads(); y[threadIdx.x] = v[(31 - threadIdx.x) * 32]; }", check=True).get_function("k")
    rows = emulator.traffic(conflict, 1, 32, (f32(32),))
    shared = [(row.line, row.write, row.transfers, row.least) for row in rows if row.space == "shared"]
    assert shared == [(1, True, 32, 1), (2, False, 32, 1)]
    with pytest.raises(ValueError, match="check=True"):
        emulator.traffic(Module(source).get_function("lines"), 1, 32, (f32(256), f32(32), i32(33)))
