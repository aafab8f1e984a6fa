"""What cuBLAS is asked for, executed by the simulated cuBLAS: random layouts, batches, dtypes, precision, handles."""
from __future__ import annotations

import gc
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from test_gemm import BF16, COMPLEX, EPS, FLOATS, check, draw, swap

import tinytorch_gpu as tt
from tinytorch_gpu.backend import cublas
from tinytorch_gpu.backend import device as devices
from tinytorch_gpu.backend import gemm as gemm_module
from tinytorch_gpu.backend.gemm import gemm
from tinytorch_gpu.backend.gemm_plan import CALLS, plan
from tinytorch_gpu.backend.simulated import counters
from tinytorch_gpu.backend.simulated import cublas as simulated

SIM = devices.backend_for(devices.device("sim"))


def layout(rng, shape, dtype):
    """A random array of a shape, and a device array with its values and some strides: permuted, sliced, reversed,
    padded, expanded."""
    rank = len(shape)
    order = rng.permutation(rank) if rng.random() < 0.6 else np.arange(rank)
    steps = [int(rng.choice([1, 1, 1, 2, -1])) if rng.random() < 0.4 else 1 for _ in shape]
    pads = [int(rng.integers(0, 3)) if rng.random() < 0.4 else 0 for _ in shape]
    expanded = [bool(rng.random() < 0.12) for _ in shape]
    big = [1 if e else n * abs(s) + p for n, s, p, e in zip(shape, steps, pads, expanded)]
    base = draw(rng, [big[i] for i in order], dtype)
    index = tuple(slice(None) if e else slice(0, n * s, s) if s > 0 else slice(n - 1, None, -1) if n else slice(0, 0)
                  for n, s, e in zip(shape, steps, expanded))

    def view(xp, x):
        return xp.broadcast_to(x.transpose(*np.argsort(order).tolist())[index], shape)

    return view(np, base), view(SIM.xp, SIM.from_host(base))


def shapes(rng):
    """Shapes of operands whose leading dimensions broadcast, transposed or not."""
    m, n, k = (int(rng.choice([1, 2, 3, 5, 8])) for _ in range(3))
    lead = [int(rng.choice([1, 2, 3, 4])) for _ in range(rng.integers(0, 4))]
    keep = lambda: [1 if rng.random() < 0.25 else d for d in lead][rng.integers(0, len(lead) + 1):]  # noqa: E731
    first = lead if rng.random() < 0.5 else keep()
    return (*first, m, k), (*(keep() if rng.random() < 0.5 else lead), k, n)


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=str)
def test_random_layouts(rng, dtype):
    for _ in range(120):
        shape_a, shape_b = shapes(rng)
        flags = bool(rng.integers(2)), bool(rng.integers(2))
        (a, x), (b, y) = (layout(rng, (*s[:-2], s[-1], s[-2]) if f else s, dtype)
                          for s, f in zip((shape_a, shape_b), flags))
        out = gemm(x, y, *flags)
        a, b = (v.swapaxes(-1, -2) if f else v for v, f in zip((a, b), flags))
        what = f"{a.shape} {a.strides} @ {b.shape} {b.strides}"
        assert out.flags.c_contiguous, what
        try:
            check(SIM.to_host(out), a, b, dtype)
            if dtype.itemsize > 2:
                twice = gemm(x, y, *flags, add=out)
                check(SIM.to_host(twice) / 2, a, b, dtype)
        except AssertionError:
            raise AssertionError(what) from None


def test_no_copy_where_a_matrix_has_a_unit_stride(rng):
    xp = SIM.xp
    x = xp.zeros((4, 6, 8, 10), np.float32)
    heads = xp.zeros((2, 16, 3, 8), np.float32).transpose(0, 2, 1, 3)  # split from one projection
    for a, b in [
        (x, x.swapaxes(-1, -2)), (x[..., :3], x[..., :3].swapaxes(-1, -2)), (x[:, ::2], x[:, ::2].swapaxes(-1, -2)),
        (heads, heads.swapaxes(-1, -2)), (heads.swapaxes(-1, -2), heads), (x[:1], x.swapaxes(-1, -2)),
        (x, xp.zeros((10, 5), np.float32)), (heads, xp.zeros((5, 8), np.float32).T),
        (x[1:, 2:], x[1:, 2:].swapaxes(-1, -2)), (x[0, 0], x.swapaxes(-1, -2)),
    ]:
        made = plan(a.shape, a.strides, b.shape, b.strides, 4)
        assert not (made.copy_a or made.copy_b), (a.shape, a.strides, b.shape, b.strides)
        with counters() as seen:
            gemm(a, b)
        assert seen.allocations == 1  # the result
        assert seen.host_to_device == seen.device_to_host == seen.synchronizations == 0


def test_one_call_wherever_one_stride_describes_the_batch():
    def calls(a, b):
        made = plan(a.shape, a.strides, b.shape, b.strides, a.itemsize)
        return len(made.offsets), made.count, made.n

    x = np.zeros((4, 6, 8, 10), np.float16)
    heads = np.zeros((64, 128, 12, 8), np.float16).transpose(0, 2, 1, 3)
    assert calls(x, x.swapaxes(-1, -2)) == (1, 24, 8)
    assert calls(x, np.zeros((10, 5), np.float16)) == (1, 1, 4 * 6 * 8)  # one B: the rows of A in one product
    assert calls(x[:, :, ::2], np.zeros((10, 5), np.float16)) == (1, 1, 4 * 6 * 4)
    assert calls(heads, heads.swapaxes(-1, -2)) == (12, 64, 128)  # the shorter dimension becomes calls
    wide = np.zeros((40, 3, 50, 8), np.float16).transpose(0, 2, 1, 3)
    assert calls(wide, wide.swapaxes(-1, -2))[:2] == (1, 2000)  # 40 calls: copied instead
    made = plan(wide.shape, wide.strides, (40, 50, 8, 3), np.zeros((40, 50, 8, 3), np.float16).strides, 2)
    assert made.copy_a and not made.copy_b and len(made.offsets) == 1
    crossed = plan((20, 1, 3, 8), (48, 48, 16, 2), (1, 30, 8, 3), (1440, 48, 6, 2), 2)
    assert len(crossed.offsets) == 20 > CALLS and not (crossed.copy_a or crossed.copy_b)  # a copy would not help


def test_sizes_beyond_32_bits():
    big = 2**31 + 8
    assert plan((big, 2), (4, 2), (2, 3), (6, 2), 2).wide
    assert plan((4, 2, 2), (2 * big, 4, 2), (2, 3), (6, 2), 2).wide is False  # a batch stride has 64 bits
    assert plan((2, 2), (2 * big, 2), (2, 3), (6, 2), 2).wide  # a leading dimension has not


@pytest.mark.parametrize("name", ["gemm_ex", "gemm_strided_batched_ex", "gemm_ex_64", "gemm_strided_batched_ex_64",
                                  "create", "set_stream", "set_workspace", "set_math_mode"])
def test_the_binding_takes_what_is_passed(name):
    """The simulated functions have the binding's arguments in the binding's order, and ours are called with them."""
    binding = pytest.importorskip("nvmath.bindings.cublas", reason="nvmath-python is not installed")
    declared = re.match(rf"{name}\((.*?)\)", getattr(binding, name).__doc__).group(1)
    theirs = [part.split()[-1] for part in declared.split(", ") if part]
    assert list(inspect.signature(getattr(simulated, name)).parameters) == theirs
    assert name in cublas.NAMES


def test_numbers_of_the_binding():
    binding = pytest.importorskip("nvmath.bindings.cublas", reason="nvmath-python is not installed")
    from nvmath import CudaDataType

    assert binding.Math.DEFAULT_MATH | binding.Math.DISALLOW_REDUCED_PRECISION_REDUCTION == cublas.MATH
    assert binding.ComputeType.COMPUTE_32F == cublas.COMPUTE_32F
    assert binding.ComputeType.COMPUTE_32F_FAST_TF32 == cublas.COMPUTE_32F_FAST_TF32
    assert binding.ComputeType.COMPUTE_64F == cublas.COMPUTE_64F
    assert binding.GemmAlgo.DFALT == cublas.ALGORITHM
    assert (binding.Operation.N, binding.Operation.T) == (False, True)  # as `transposed` is passed
    names = {"float16": "R_16F", "bfloat16": "R_16BF", "float32": "R_32F", "float64": "R_64F", "complex64": "C_32F",
             "complex128": "C_64F"}
    assert {d.name: row[0] for d, row in cublas.TYPES.items()} == {
        n: CudaDataType[f"CUDA_{c}"] for n, c in names.items()}


@pytest.mark.parametrize("where", ["cpu", "sim"])
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=str)
def test_an_added_array(rng, dtype, where):
    backend = devices.backend_for(devices.device(where))
    for shape_a, shape_b, shape_c in [((5, 6), (6, 7), (7,)), ((2, 5, 6), (6, 7), (5, 1)), ((2, 5, 6), (2, 6, 7), ()),
                                      ((2, 5, 0), (0, 7), (7,)), ((0, 6), (6, 7), (7,))]:
        a, b, c = draw(rng, shape_a, dtype), draw(rng, shape_b, dtype), np.asarray(draw(rng, shape_c, dtype))
        x, y, z = (backend.from_host(v) for v in (a, b, c))
        wide = np.complex128 if dtype.kind == "c" else np.float64
        exact = np.matmul(a.astype(wide), b.astype(wide))
        scale = np.matmul(np.abs(a.astype(wide)), np.abs(b.astype(wide))) + np.abs(c.astype(wide))
        eps = 3 * EPS[dtype.name]  # the product, the number added, and both factors
        for alpha, beta in ((1, 1), (0.5, 2), (1, 0)):
            out = backend.to_host(gemm(x, y, add=z, alpha=alpha, beta=beta))
            assert out.dtype == dtype and out.shape == exact.shape
            wanted = alpha * exact + beta * c.astype(wide)
            assert (np.abs(out.astype(wide) - wanted) <= eps * scale).all()
        assert (backend.to_host(z) == c).all()
        if dtype.itemsize == 2:
            out = gemm(x, y, out_dtype=np.float32, add=backend.from_host(c.astype(np.float32)))
            assert out.dtype == np.float32
            assert (np.abs(backend.to_host(out) - (exact + c.astype(wide))) <= 1e-5 * scale).all()


@pytest.mark.parametrize("where", ["cpu", "sim"])
def test_an_added_array_joins_before_the_one_rounding(where):
    backend = devices.backend_for(devices.device(where))
    a, b = np.array([[2048.0, 1.0]], np.float16), np.array([[1.0], [1.0]], np.float16)
    assert backend.to_host(gemm(backend.from_host(a), backend.from_host(b))) == 2048  # 2049, half to even
    c = np.array([1.0], np.float16)
    assert backend.to_host(gemm(backend.from_host(a), backend.from_host(b), add=backend.from_host(c))) == 2050


def test_nan_in_what_is_multiplied_by_zero_does_not_reach_the_result():
    one = SIM.xp.ones((3, 3), np.float32)
    nan = SIM.from_host(np.full((3, 3), np.nan, np.float32))
    assert (SIM.to_host(gemm(one, one, add=nan, beta=0)) == 3).all()
    assert (SIM.to_host(gemm(one[:, :0], one[:0], add=nan, beta=0)) == 0).all()


def test_precision_of_float32():
    assert tt.get_float32_matmul_precision() == "highest"
    a = np.full((4, 8), 1 + 2.0**-12, np.float32)  # 12 bits: lost in TF32's 10
    x = SIM.from_host(a)
    with pytest.raises(RuntimeError, match="highest, high, medium, got 'low'"):
        tt.set_float32_matmul_precision("low")
    try:
        for name in ("high", "medium"):
            tt.set_float32_matmul_precision(name)
            assert tt.get_float32_matmul_precision() == name
            assert (SIM.to_host(gemm(x, x, trans_b=True)) == 8).all()
            c = x.astype(np.complex64)
            assert (SIM.to_host(gemm(c, c, trans_b=True)) == 8).all()
            d = x.astype(np.float64)  # not float64
            assert (SIM.to_host(gemm(d, d, trans_b=True)) > 8).all()
            assert (gemm(a, a, trans_b=True) > 8).all()  # nor the CPU
    finally:
        tt.set_float32_matmul_precision("highest")
    assert (SIM.to_host(gemm(x, x, trans_b=True)) > 8).all()


def test_a_thread_has_a_handle_and_leaves_it_to_the_next():
    def handle():
        return cublas._handle(SIM, cublas.library(SIM)).value

    mine, seen = handle(), []
    assert handle() == mine
    both = threading.Barrier(2)

    def run():
        seen.append(handle())
        both.wait(5)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({mine, *seen}) == 3
    gc.collect()
    threads = threading.Thread(target=lambda: seen.append(handle()))
    threads.start()
    threads.join()
    assert seen[2] in seen[:2]  # no fourth
    assert simulated._handles[mine]["math"] == cublas.MATH


class Recorder:
    """A library that notes what it is asked for."""

    name = "recorder"

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args)) or 7


def test_a_change_of_stream_brings_its_own_workspace():
    """cublasSetStream takes the workspace away; two streams must not share one, and going back finds the first."""
    class Memory:
        made = 0

        def __init__(self, size):
            Memory.made += 1
            self.ptr = 256 * Memory.made

    class Backend:
        type = "sim"

        class xp:
            class cuda:
                pass

    Backend.xp.cuda.Memory = Memory
    asked = Recorder()
    handle = cublas._Handle(asked, Backend, 0)
    handle.room = 1024
    for stream in (0, 5, 0):
        handle.go_to(stream)
    assert asked.calls == [
        ("create",), ("set_math_mode", 7, cublas.MATH), ("set_stream", 7, 0), ("set_workspace", 7, 256, 1024),
        ("set_stream", 7, 5), ("set_workspace", 7, 512, 1024), ("set_stream", 7, 0), ("set_workspace", 7, 256, 1024),
    ]


def test_the_simulated_cublas_refuses_what_cublas_refuses():
    one = np.ones(64, np.float32)
    at, scale = one.ctypes.data, np.float32(1)
    number = np.array(scale).ctypes.data
    handle = simulated.create()

    def call(m=2, n=2, k=2, lda=2, kind=0, ctype=0, compute=68, stride=4, count=1, who=handle):
        simulated.gemm_strided_batched_ex(who, 0, 0, m, n, k, number, at, kind, lda, 0, at, kind, 2, 0, number, at,
                                          ctype, 2, stride, count, compute, -1)

    for arguments, status in [
        ({"m": -1}, "INVALID_VALUE"), ({"lda": 1}, "INVALID_VALUE"), ({"k": 3}, "INVALID_VALUE"),
        ({"kind": 2, "compute": 77}, "NOT_SUPPORTED"), ({"kind": 1}, "NOT_SUPPORTED"), ({"ctype": 2}, "NOT_SUPPORTED"),
        ({"count": 2, "stride": 3}, "overlap"), ({"who": 10**9}, "NOT_INITIALIZED"),
    ]:
        with pytest.raises(simulated.cuBLASError, match=status):
            call(**arguments)


class Gpu:
    """What the module asks of a GPU's backend, over the simulated one: two devices of a compute capability."""

    type = "cuda"
    ndarray = SIM.ndarray

    def __init__(self, capability="80"):
        current = types.SimpleNamespace(device=0)
        sizes = self.sizes = []

        class Memory:
            def __init__(self, size):
                sizes.append(size)
                self.block = SIM.xp.empty(1024, np.uint8)
                self.ptr = self.block.data.ptr

        self.current = current
        cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDevice=lambda: current.device), Memory=Memory,
            Device=lambda number=None: types.SimpleNamespace(compute_capability=capability),
            get_current_stream=SIM.xp.cuda.get_current_stream)
        self.xp = types.SimpleNamespace(cuda=cuda, empty=lambda *a: SIM.xp.empty(*a), matmul=SIM.xp.matmul)


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(capability, module name, its functions)`: products as on a GPU, by a binding of that name."""
    def make(capability, name, functions):
        made = Gpu(capability)
        monkeypatch.setattr(gemm_module, "backend_of", lambda array: made)
        monkeypatch.setattr(cublas, "_libraries", {})
        monkeypatch.setattr(cublas, "_local", threading.local())
        monkeypatch.setattr(cublas, "_idle", {})
        monkeypatch.setitem(sys.modules, "nvmath", None)
        monkeypatch.setitem(sys.modules, "nvmath.bindings", None)
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            module = sys.modules.get(".".join(parts[:i])) or types.ModuleType(".".join(parts[:i]))
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), module)
        module = types.ModuleType("cublas")
        vars(module).update(functions)
        monkeypatch.setitem(vars(sys.modules[name]), "cublas", module)  # the real one loads cuBLAS when it is asked
        monkeypatch.setitem(sys.modules, f"{name}.cublas", module)
        return made

    cublas.capability.cache_clear()
    yield make
    cublas.capability.cache_clear()


NVMATH = {name: getattr(simulated, name) for name in cublas.NAMES} | {"destroy": lambda handle: None}
CUPY = {"create": simulated.create, "setMathMode": simulated.set_math_mode, "gemmEx": simulated.gemm_ex,
        "gemmStridedBatchedEx": simulated.gemm_strided_batched_ex}


@pytest.mark.parametrize(("name", "functions"), [("nvmath.bindings", NVMATH), ("cupy_backends.cuda.libs", CUPY)],
                         ids=["nvmath", "CuPy"])
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=str)
def test_the_path_of_a_gpu(rng, dtype, gpu, name, functions, caplog):
    """Everything but the library itself: how a binding is found, handles, workspaces, streams, devices."""
    made = gpu("90", name, functions)
    for device in (0, 1, 0):
        made.current.device = device
        for shape_a, shape_b in [((5, 6), (6, 7)), ((2, 5, 6), (6, 7)), ((2, 3, 5, 6), (3, 6, 7))]:
            a, b = draw(rng, shape_a, dtype), draw(rng, shape_b, dtype)
            check(SIM.to_host(gemm(SIM.from_host(a), SIM.from_host(swap(b)), trans_b=True)), a, b, dtype)
    assert len(cublas._local.handles) == 2
    if name.startswith("nvmath"):
        assert made.sizes == [32 << 20, 32 << 20]  # one for each device, on the one stream
        assert not caplog.records
    else:
        assert made.sizes == []
        assert "nvmath" in caplog.text and "CuPy's cuBLAS" in caplog.text
        with pytest.raises(RuntimeError, match="2\\^31 elements.*nvmath"):
            cublas.library(made).gemm_ex_64()


THROUGH_THE_BINDING = """
import dataclasses
import numpy as np
import test_gemm_plan as here
from tinytorch_gpu.backend import cublas, gemm as module

gpu = here.Gpu("90")
module.backend_of = lambda array: gpu
assert cublas.library(gpu).name == "nvmath.bindings"
rng, plan = np.random.default_rng(SEED), cublas.plan
for wide in (False, True):
    cublas.plan = lambda *args: dataclasses.replace(plan(*args), wide=wide)
    for shape_a, shape_b in [((5, 6), (6, 7)), ((2, 5, 6), (6, 7)), ((2, 3, 5, 6), (3, 6, 7)), ((4, 1, 3, 5), (5, 4))]:
        for flags in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            a, b, c = (here.draw(rng, s, np.dtype(np.float32)) for s in (shape_a, shape_b, shape_b[-1:]))
            x, y = (here.SIM.from_host(here.swap(v) if f else v) for v, f in zip((a, b), flags))
            out = module.gemm(x, y, *map(bool, flags), add=here.SIM.from_host(c), alpha=0.5, beta=2)
            assert np.allclose(here.SIM.to_host(out), 0.5 * (a @ b) + 2 * c, atol=1e-5)
try:
    module.gemm(x.astype(np.float64), y.astype(np.float64), True, True)
except Exception as e:
    print(type(e).__name__, e)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="builds shared libraries of Linux's names")
def test_the_real_binding_passes_every_argument_on(tmp_path, seed):
    """nvmath.bindings itself, with a cuBLAS that runs on the host: what it hands over, by value, is what we meant."""
    pytest.importorskip("nvmath.bindings.cublas", reason="nvmath-python is not installed")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = Path(__file__).parent
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(tmp_path / "libcublas.so.13"),
                    str(folder / "host_cublas.c")], check=True)
    for name in ("libcublas.so.12", "libcublasLt.so.13", "libcublasLt.so.12", "libcuda.so.1"):
        shutil.copy(tmp_path / "libcublas.so.13", tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", THROUGH_THE_BINDING.replace("SEED", str(seed))], capture_output=True, text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": f"{folder.parent}{os.pathsep}{folder}"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cuBLASError from the host's cuBLAS (NOT_SUPPORTED)\n"
    assert done.stderr.split() == ["math", "16", "stream", "0", "workspace", str(32 << 20)]


def test_another_stream_brings_its_own_workspace_on_the_gpus_path(gpu):
    made = gpu("80", "nvmath.bindings", NVMATH)
    x = SIM.xp.ones((4, 4), np.float32)
    gemm(x, x)
    with SIM.xp.cuda.Stream(non_blocking=True) as stream:
        stream.wait_event(SIM.xp.cuda.Stream.null.record())
        out = gemm(x, x)
        stream.synchronize()
    gemm(x, x)
    assert (SIM.to_host(out) == 4).all()
    assert made.sizes == [8 << 20, 8 << 20]


def test_bfloat16_before_compute_capability_8(rng, gpu):
    """cuBLAS has none there: float32 and one rounding."""
    gpu("75", "nvmath.bindings", NVMATH)
    a, b = draw(rng, (5, 6), BF16), draw(rng, (6, 7), BF16)
    check(SIM.to_host(gemm(SIM.from_host(a), SIM.from_host(b))), a, b, BF16)
    assert not getattr(cublas._local, "handles", None)


def test_a_binding_that_fails_otherwise_is_not_hidden(gpu):
    def broken():
        raise simulated.cuBLASError("NOT_INITIALIZED (1)")

    gpu("80", "nvmath.bindings", {**NVMATH, "create": broken})
    with pytest.raises(simulated.cuBLASError):
        gemm(SIM.xp.ones((2, 2), np.float32), SIM.xp.ones((2, 2), np.float32))


@pytest.mark.parametrize("where", ["sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_products_are_captured_into_a_graph(rng, where):
    """Batches that take several calls, a bias, half types; the graph computes anew from what its inputs hold."""
    backend = devices.backend_for(devices.device(where))
    if cublas.library(backend).name == "CuPy":
        pytest.skip("nvmath-python is not installed: CuPy's binding refuses capture")
    heads = rng.integers(-3, 4, (4, 8, 3, 16)).astype(np.float16)
    bias = rng.integers(-3, 4, 8).astype(np.float16)
    x, c = backend.from_host(heads), backend.from_host(bias)

    def work():
        h = x.transpose(0, 2, 1, 3)
        return gemm(h, h, trans_b=True, add=c)

    backend.synchronize()
    stream = backend.xp.cuda.Stream(non_blocking=True)
    with stream:
        work()  # handle and workspace of this stream
        stream.synchronize()
        stream.begin_capture()
        out = work()
        graph = stream.end_capture()
        for factor in (1, 2):
            x[...] = backend.from_host(heads * np.float16(factor))
            graph.launch(stream)
            stream.synchronize()
            h = heads.astype(np.float64).transpose(0, 2, 1, 3) * factor
            assert (backend.to_host(out) == h @ h.swapaxes(-1, -2) + bias).all()


@pytest.mark.parametrize("where", ["sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_train_step_with_convolutions_is_captured(rng, where):
    backend = devices.backend_for(devices.device(where))
    if cublas.library(backend).name == "CuPy":
        pytest.skip("nvmath-python is not installed: CuPy's binding refuses capture")
    nn = tt.nn
    with tt.device(where):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 16, 10))
        x = tt.from_numpy(rng.standard_normal((2, 3, 4, 4)).astype(np.float32)).to(where)
        y = tt.from_numpy(rng.integers(0, 10, 2)).to(where)
        optimizer = tt.optim.AdamW(model.parameters(), lr=1e-2)

        def step():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        backend.synchronize()
        stream = backend.xp.cuda.Stream(non_blocking=True)
        with stream:
            first = [step() for _ in range(3)][0]
            stream.synchronize()
            stream.begin_capture()
            last = step()
            graph = stream.end_capture()
            for _ in range(5):
                graph.launch(stream)
            stream.synchronize()
        assert float(last) < float(first)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=str)
def test_the_gpu_agrees_with_the_plan_executed_here(rng, dtype):
    """The few lines that call the binding: the same layouts on the GPU."""
    backend = devices.backend_for(devices.device("cuda"))
    for m, n, k, lead in [(64, 48, 80, ()), (7, 5, 3, (3,)), (33, 17, 65, (2, 3)), (1, 9, 4, (5,)), (16, 1, 8, (2,))]:
        a, b = draw(rng, (*lead, m, k), dtype), draw(rng, (*lead, k, n), dtype)
        for flags in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            x, y = (backend.from_host(swap(v) if f else v) for v, f in zip((a, b), flags))
            check(backend.to_host(gemm(x, y, *map(bool, flags))), a, b, dtype)
            if dtype in (np.dtype(np.float16), BF16):
                out = gemm(x, y, *map(bool, flags), out_dtype=np.float32)
                check(backend.to_host(out), a, b, np.dtype(np.float32))
