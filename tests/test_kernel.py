"""How a kernel lives: sources and signatures, checks of a launch, what is compiled when, kernel or formula."""
from __future__ import annotations

import threading
import time
import timeit

import ml_dtypes
import numpy as np
import pytest

import tinytorch_gpu
from tinytorch_gpu import ops
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.backend import kernel as kernels
from tinytorch_gpu.backend import kernel_rows, kernel_source
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.backend.device import device as Device
from tinytorch_gpu.backend.kernel import Kernel, use_kernels

SCALE = """
template <typename T>
__global__ void scale(const T* x, T* y, float by, long long n) {
    const long long i = blockIdx.x * 256ll + threadIdx.x;
    if (i < n) y[i] = static_cast<T>(static_cast<float>(x[i]) * by);
}
"""
SIM = backend_for(Device("sim"))


def put(array):
    return SIM.from_host(np.asarray(array))


@pytest.fixture
def launched(monkeypatch):
    """Launches are written down instead of run: [(expression, grid, block, arguments, shared)]."""
    seen = []

    def compiled(backend, source, expression, options, parameters):
        return lambda grid, block, args, shared_mem: seen.append((expression, grid, block, list(args), shared_mem))

    monkeypatch.setattr(kernels, "_compile", compiled)
    return seen


@pytest.fixture
def emulated():
    if not kernels.ready(SIM):
        pytest.skip(kernels.reason(SIM))


# sources

def test_signatures():
    text = """
    // template <typename T> __global__ void commented(int a) {}
    /* __global__ void out() {} */
    const char* text = "__global__ void string(int x)";
    extern "C" __global__ void plain(float* __restrict__ y, const unsigned char *mask, std::int64_t n) {}
    template <typename T, int N, bool B>
    __global__ void __launch_bounds__(128, 4) many(
        const T* const x,  // the input
        size_t n, bool flag, unsigned long long seed) {}
    static __global__ __launch_bounds__(64) void bounded(volatile half* x) {}
    """
    found = kernel_source.read(text).signatures
    assert list(found) == ["plain", "many", "bounded"]
    plain, many, bounded = found.values()
    assert [(p.name, str(p.kind), p.pointer, p.constant) for p in plain.parameters] == [
        ("y", "float32", True, False), ("mask", "uint8", True, True), ("n", "int64", False, False)]
    assert (many.types, many.constants, many.max_threads) == (("T",), ("N", "B"), 128)
    assert many.parameters[0].kind == "T" and many.parameters[3].kind == np.uint64
    assert bounded.max_threads == 64 and bounded.parameters[0].kind == np.float16
    assert plain.line == 5 and many.line == 6


@pytest.mark.parametrize("text, message", [
    ("__global__ void f(Pair p, float* x) {}", "'Pair' cannot be checked"),
    ("__global__ void f(float** x) {}", "pass a pointer or a number"),
    ("__global__ void f(float (&x)[4]) {}", "pass a pointer or a number"),
])
def test_signatures_that_cannot_be_checked(text, message):
    with pytest.raises(ValueError, match=r"\[kernel\] <kernel string>:1: f takes") as e:
        kernel_source.read(text)
    assert message in str(e.value)


def test_headers_are_written_into_the_source(tmp_path):
    (tmp_path / "b.cuh").write_text("int b;\n")
    (tmp_path / "a.cuh").write_text('#include "b.cuh"\nint a;\n')
    (tmp_path / "k.cu").write_text('#include "a.cuh"\n#include "b.cuh"\n__global__ void k(int* x) {}\n')
    text = kernel_source.read(tmp_path / "k.cu").text
    assert text.count("int b;") == 1 and "#include" not in text
    lines = text.splitlines()
    assert lines[lines.index("__global__ void k(int* x) {}") - 1] == "// b.cuh stands above"
    assert f'#line 2 "{(tmp_path / "k.cu").as_posix()}"' in lines
    (tmp_path / "k.cu").write_text('#include "gone.cuh"\n__global__ void k(int* x) {}\n')
    with pytest.raises(FileNotFoundError, match=r"k\.cu:1 includes 'gone\.cuh'"):
        kernel_source.read(tmp_path / "k.cu")


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "k.cu"
    path.write_text("__global__ void k(int* x) {}")
    before = kernel_source.read(path)
    path.write_text("__global__ void k(int* x, int n) {}")
    assert len(before.signatures["k"].parameters) == 1 and len(kernel_source.read(path).signatures["k"].parameters) == 2


def test_sources_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_source, "_CHECKOUT", tmp_path / "kernels")
    monkeypatch.setattr(kernel_source, "_INSIDE", tmp_path / "inside")
    (tmp_path / "kernels").mkdir()  # another distribution's folder of this name
    with pytest.raises(FileNotFoundError, match=r"\[kernel\] found no CUDA sources"):
        kernel_source.library_folder()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "vector.cuh").write_text("")
    assert kernel_source.library_folder() == tmp_path / "inside"


def test_what_is_no_source():
    with pytest.raises(FileNotFoundError, match="neither a file nor CUDA source"):
        kernel_source.read("nothing.cu")


# launches

def test_types_and_numbers_of_a_launch(launched):
    scale = Kernel(SCALE)
    for dtype, name in ((np.float32, "float"), (np.float16, "__half"), (ml_dtypes.bfloat16, "__nv_bfloat16")):
        x, y = put(np.ones(5, dtype)), put(np.ones(5, dtype))
        scale((1,), (256,), x, y, 2, 5)
        expression, _, _, args, _ = launched[-1]
        assert expression == f"scale<{name}>" and args[0] is x
        assert [type(a) for a in args[2:]] == [np.float32, np.int64]
    assert len(launched) == 3


def test_constants_and_order_of_a_template(launched):
    text = "template <int N, typename T, bool B> __global__ void f(T* x) {}"
    Kernel(text, N=3, B=True)((1,), (1,), put(np.zeros(1, np.int32)))
    assert launched[-1][0] == "f<3, int, true>"
    with pytest.raises(ValueError, match="template constants without a value: give N"):
        Kernel(text, B=True)((1,), (1,), put(np.zeros(1)))
    with pytest.raises(ValueError, match="has no template constants M"):
        Kernel(text, N=1, B=True, M=2)((1,), (1,), put(np.zeros(1)))


def test_optional_pointers(launched):
    text = "template <typename T, typename P> __global__ void f(const P* w, T* x) {}"
    f = Kernel(text, optional=("w",))
    x = put(np.zeros(2, np.float16))
    f((1,), (1,), None, x)
    f((1,), (1,), None, x)
    f((1,), (1,), put(np.zeros(2, np.float32)), x)
    assert [row[0] for row in launched] == ["f<__half, __half>", "f<__half, __half>", "f<__half, float>"]
    with pytest.raises(TypeError, match="expected an array for w, got NoneType"):
        Kernel(text)((1,), (1,), None, x)


X, Y = put(np.ones(8, np.float32)), put(np.ones(8, np.float32))
SHIFTED = put(np.zeros(40, np.uint8))[2:34].view(np.float32)
BAD = [
    ((X, Y, 2.0), TypeError, "expected 4 arguments, got 3"),
    ((X, Y, 2.0, 8, 8), TypeError, "expected 4 arguments, got 5"),
    ((X, put(np.ones(8)), 2.0, 8), TypeError, "expected y of dtype float32, got float64: convert it"),
    ((X, put(np.ones(8, np.complex64)), 2.0, 8), TypeError, "expected y of dtype float32, got complex64"),
    ((2.0, X, Y, 8), TypeError, "expected an array for x, got float"),
    ((X, 2.0, Y, 8), TypeError, "expected an array for y, got float"),
    ((X, Y, 8, 2.0), TypeError, "expected n as int64, got float"),
    ((X, Y, 2.0, True), TypeError, "expected n as int64, got bool"),
    ((X, Y, "2", 8), TypeError, "expected by as float32, got str"),
    ((X, Y, np.float64(2), 8), TypeError, "expected by as float32 or a Python number, got numpy float64"),
    ((X, Y, 2.0, 2**63), TypeError, "n=9223372036854775808 does not fit int64"),
    ((X, put(np.ones((4, 4), np.float32)).T, 2.0, 8), ValueError, "is not contiguous"),
    ((SHIFTED, Y, 2.0, 8), ValueError, "no multiple of its 4-byte elements"),
    ((np.ones(8, np.float32), Y, 2.0, 8), RuntimeError, "x is on the CPU"),
    ((X, np.ones(8, np.float32), 2.0, 8), RuntimeError, "y is on cpu, the launch is on sim:0"),
]


@pytest.mark.parametrize("args, kind, message", BAD, ids=[m for *_, m in BAD])
def test_wrong_arguments_are_refused(args, kind, message, launched):
    scale = Kernel(SCALE)
    for _ in range(2):
        scale((1,), (256,), X, Y, 2.0, 8)  # what has passed must not let the next one through
        with pytest.raises(kind, match=r"^\[kernel\] scale: ") as e:
            scale((1,), (256,), *args)
        assert message in str(e.value) and "const T* x" in str(e.value)


@pytest.mark.parametrize("grid, block, shared, message", [
    ((0,), (256,), 0, "grid x is 0"), ((1, 65536), (256,), 0, "grid y is 65536"), ((2**31,), (256,), 0, "grid x is"),
    ((1,), (1025,), 0, "block x is 1025"), ((1,), (64, 32), 0, "2048 threads, at most 1024"),
    ((1,), (1, 1, 65), 0, "block z is 65"), ((1,), (256,), 2**20, "dynamic shared memory"),
    ((1,), (256,), -1, "dynamic shared memory"),
])
def test_wrong_sizes_are_refused(grid, block, shared, message, launched):
    with pytest.raises(ValueError, match=r"\[kernel\] scale: ") as e:
        Kernel(SCALE)(grid, block, X, Y, 2.0, 8, shared=shared)
    assert message in str(e.value) and not launched


@pytest.mark.parametrize("grid, block", [(1, (256,)), ((1,), 256), ((1.0,), (256,)), ((), (256,)), ((1,) * 4, (1,))])
def test_sizes_must_be_tuples(grid, block, launched):
    with pytest.raises(TypeError, match="as a tuple of 1 to 3 integers"):
        Kernel(SCALE)(grid, block, X, Y, 2.0, 8)


def test_launch_bounds_are_kept(launched):
    with pytest.raises(ValueError, match="256 threads, at most 128"):
        Kernel("__global__ void __launch_bounds__(128) f(float* x) {}")((1,), (256,), X)


def test_types_that_the_kernel_does_not_declare(launched):
    with pytest.raises(TypeError, match=r"expected T to be one of \[float; __half\], got double"):
        Kernel(SCALE, types=("float", "__half"))((1,), (256,), put(np.ones(2)), put(np.ones(2)), 2.0, 2)


def test_a_kernel_without_arrays_or_name():
    with pytest.raises(ValueError, match="takes no array"):
        Kernel("__global__ void f(int n) {}")((1,), (1,), 1)
    two = "__global__ void f(int* n) {} __global__ void g(int* n) {}"
    with pytest.raises(ValueError, match="has f, g, got None: name one of them"):
        Kernel(two)((1,), (1,), X)
    with pytest.raises(ValueError, match="got 'h'"):
        Kernel(two, "h")((1,), (1,), X)


def test_checked_launches_are_remembered_up_to_a_limit(launched, monkeypatch):
    monkeypatch.setattr(kernels, "REMEMBERED", 4)
    scale, checks = Kernel(SCALE), []
    check = Kernel._check
    monkeypatch.setattr(Kernel, "_check", lambda self, *a: checks.append(1) or check(self, *a))
    for _ in range(3):
        scale((1,), (256,), X, Y, 2.0, 8)
    assert len(checks) == 1
    for grid in range(1, 20):
        scale((grid,), (256,), X, Y, 2.0, 8)
    assert all(len(table) <= 4 for table in scale._launches.values())


def test_a_prepared_launch_costs_less_than_a_microsecond(monkeypatch):
    """Beside a raw launch, with CuPy's own arrays over memory that is never touched. Processor time, and scaled by what
    this machine takes for a NumPy scalar (60 ns where the limit was set), so that a busy machine does not fail it."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    from tinytorch_gpu.backend import device as devices

    class Stub:
        type, xp, ndarray = "cuda", cupy, cupy.ndarray

        def device_of(self, array):
            return Device("cuda", 0)

    def raw(grid, block, args, shared_mem=0):
        pass

    monkeypatch.setitem(devices._by_class, cupy.ndarray, Stub())
    monkeypatch.setattr(devices, "_probe", devices.Probe(True, "stub", "stub", 1))
    monkeypatch.setattr(kernels, "_compile", lambda *a: raw)
    monkeypatch.setattr(kernels, "_current", lambda backend: Device("cuda", 0))
    monkeypatch.setattr(Kernel, "_sizes", lambda *a: None)
    memory = cupy.cuda.UnownedMemory(1 << 24, 1 << 20, None, device_id=0)
    x, y = (cupy.ndarray((64, 256), np.float32, cupy.cuda.MemoryPointer(memory, at)) for at in (0, 1 << 16))
    softmax = Kernel("rows.cu", "softmax_backward", LOG=False, optional=("grad",))
    kernels.LIBRARY.remove(softmax)
    args = (None, x, y, np.int64(64), np.int64(256), np.float32(1))

    def best(f):
        return min(timeit.repeat(f, number=5000, repeat=5, timer=time.process_time)) / 5000

    for _ in range(30):  # other work on the machine slows one of the three: one quiet moment is enough
        machine = max(1.0, best(lambda: np.float32(1.0)) / 60e-9)
        ours = best(lambda: softmax((64,), (32, 8), None, x, y, 64, 256, 1.0))
        plain = best(lambda: raw((64,), (32, 8), args, shared_mem=0))
        if ours - plain < 1e-6 * machine:
            return
    raise AssertionError(f"{(ours - plain) * 1e9:.0f} ns over a raw launch (machine {machine:.1f})")


# running

def test_a_user_kernel_runs(emulated, rng):
    scale = Kernel(SCALE)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        host = rng.standard_normal(1000).astype(dtype)
        x, y = put(host), put(np.zeros_like(host))
        scale((4,), (256,), x, y, 0.5, 1000)
        assert (SIM.to_host(y) == host * dtype(0.5)).all()


def test_a_syntax_error_points_into_the_users_file(emulated, tmp_path):
    path = tmp_path / "mine.cu"
    path.write_text('#include "vector.cuh"\n\n__global__ void mine(float* x) {\n    x[0] = undeclared;\n}\n')
    with pytest.raises(RuntimeError, match=r"mine\.cu[:(]4"):
        Kernel(path)((1,), (1,), put(np.zeros(1, np.float32)))


def test_an_endless_index_is_found_by_the_check_build(emulated):
    from tinytorch_gpu.backend.simulated.emulator import KernelFault

    bad = Kernel("__global__ void f(float* x, int n) { x[n] = 1.f; }")
    with kernels.checking(), pytest.raises(KernelFault, match="out of bounds"):
        bad((1,), (1,), put(np.zeros(4, np.float32)), 4)


def test_an_output_that_is_not_written_is_found_by_several_orders(emulated):
    from tinytorch_gpu.backend.simulated.emulator import KernelFault

    lazy = Kernel("__global__ void f(const float* x, float* y) { if (threadIdx.x) y[threadIdx.x] = x[threadIdx.x]; }")
    x, y = put(np.ones(4, np.float32)), put(np.zeros(4, np.float32))
    with kernels.checking():
        lazy((1,), (4,), x, y)
    with kernels.checking(orders=True), pytest.raises(KernelFault, match="different results"):
        lazy((1,), (4,), x, y)


# kernel or formula

def gradients(fn, *arrays, dtype="float32", create_graph=False):
    inputs = [tinytorch_gpu.tensor(a, device="sim", dtype=getattr(tinytorch_gpu, dtype), requires_grad=True)
              for a in arrays]
    out = fn(*inputs)
    given = engine.grad((ops.sum(ops.mul(out, out)),), inputs, create_graph=create_graph)
    return [out, *given]


OPERATORS = [
    ("gelu", lambda x: ops.gelu(x), [(7, 9)], ["activation_forward", "activation_backward"]),
    ("gelu tanh", lambda x: ops.gelu(x, approximate="tanh"), [(7, 9)], ["activation_forward", "activation_backward"]),
    ("relu", lambda x: ops.relu(x), [(7, 9)], ["activation_forward", "activation_backward"]),
    ("silu", lambda x: ops.silu(x), [(7, 9)], ["activation_forward", "activation_backward"]),
    ("bias_act", lambda x: ops.bias_act(x, ops.cast(ops.arange(9, device="sim"), x._array.dtype), "gelu_tanh"),
     [(7, 9)], ["activation_forward", "activation_backward"]),
    ("swiglu", lambda x, y: ops.swiglu(x, y), [(7, 9), (7, 9)], ["gated_forward", "gated_backward"]),
    ("geglu of halves", lambda x: ops.geglu(x), [(7, 10)], ["gated_forward", "gated_backward"]),
    ("dropout_add", lambda x, y: (tinytorch_gpu.manual_seed(5), ops.dropout_add(x, y, 0.3))[1], [(7, 9), (7, 9)],
     ["dropout", "dropout"]),
    ("rotary_embedding", lambda x: ops.rotary_embedding(x, *ops.rotary_tables(7, 6, device="sim")), [(2, 7, 9)],
     ["rotary", "rotary"]),
    ("softmax", lambda x: ops.softmax(x, -1), [(7, 9)], ["softmax_forward", "softmax_backward"]),
    ("log_softmax", lambda x: ops.log_softmax(x, 1), [(7, 9)], ["softmax_forward", "softmax_backward"]),
    ("layer_norm", lambda x, w, b: ops.layer_norm(x, 9, w, b), [(7, 9), (9,), (9,)],
     ["norm_forward", "norm_backward", "column_sums", "column_sums"]),
    ("rms_norm", lambda x, w: ops.rms_norm(x, 9, w), [(7, 9), (9,)],
     ["norm_forward", "norm_backward", "column_sums"]),
    ("cross_entropy", lambda x: ops.cross_entropy(
        x, tinytorch_gpu.tensor([1, -100, 3, 0, 8, 2, 2], device="sim"), label_smoothing=0.1), [(7, 9)],
     ["cross_entropy_forward", "cross_entropy_total", "cross_entropy_backward"]),
]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name, fn, shapes, launches", OPERATORS, ids=[o[0] for o in OPERATORS])
def test_operators_choose_kernels_and_agree_with_their_formulas(name, fn, shapes, launches, dtype, emulated, counted,
                                                                 rng):
    arrays = [rng.standard_normal(s) for s in shapes]
    fused = gradients(fn, *arrays, dtype=dtype)
    assert counted == launches
    counted.clear()
    with use_kernels(False):
        plain = gradients(fn, *arrays, dtype=dtype)
    assert not counted
    eps = tinytorch_gpu.finfo(getattr(tinytorch_gpu, dtype)).eps
    for a, b in zip(fused, plain):
        assert a.dtype is b.dtype and a.shape == b.shape
        a, b = (np.asarray(t.cpu()._array, np.float64) for t in (a, b))
        # the output is rounded to the dtype, and its square's gradient carries that rounding on
        np.testing.assert_allclose(a, b, rtol=4 * eps, atol=8 * eps * max(np.abs(b).max(), 1))


@pytest.mark.parametrize("name, fn, shapes, launches", OPERATORS, ids=[o[0] for o in OPERATORS])
def test_under_create_graph_the_formula_runs(name, fn, shapes, launches, emulated, counted, rng):
    gradients(fn, *[rng.standard_normal(s) for s in shapes], create_graph=True)
    assert counted == launches[:2 if name == "cross_entropy" else 1]  # of the forward


def test_dropout_has_the_same_mask_by_kernel_and_by_formula(emulated, counted, rng):
    x = tinytorch_gpu.tensor(rng.standard_normal((33, 9)), device="sim", dtype=tinytorch_gpu.float32)
    results = []
    for enabled in (True, False):
        tinytorch_gpu.manual_seed(5)
        with use_kernels(enabled):
            results.append(ops.dropout(x, 0.3).cpu()._array)
    assert counted == ["dropout"] and results[0].tobytes() == results[1].tobytes()


def test_what_kernels_do_not_fit_goes_by_the_formula(emulated, counted):
    x = tinytorch_gpu.tensor(np.ones((4, 6)), device="sim")
    ops.gelu(ops.cast(x, np.dtype(np.float64)))  # no kernel in float64
    ops.gelu(ops.transpose(ops.cast(x, np.dtype(np.float32)), 0, 1))  # not contiguous
    ops.softmax(ops.cast(x, np.dtype(np.float32)), 0)  # rows along the first dimension
    ops.relu(tinytorch_gpu.tensor(np.ones((0, 3), np.float32), device="sim"))
    ops.relu(tinytorch_gpu.tensor(np.ones(3, np.int32), device="sim"))
    assert not counted


def test_the_environment_and_the_thread_choose(monkeypatch):
    seen = {}

    def ask(name, value):
        monkeypatch.setenv("TINYTORCH_FUSED", value)

        def run():
            try:
                seen[name] = kernels.kernels_enabled()
            except ValueError as e:
                seen[name] = str(e)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    with use_kernels(False):
        ask("on", "1")
        ask("off", "0")
        ask("wrong", "maybe")
        assert not kernels.kernels_enabled()
    assert (seen["on"], seen["off"]) == (True, False) and "TINYTORCH_FUSED must be 0" in seen["wrong"]


def test_masks_that_are_no_run_of_rows():
    mask, one = np.ones((2, 1, 5, 33), bool), (1, 1)
    assert kernel_rows._mask_rows(mask, (2, 3, 5, 33)) == ((1, 5), (15, 2))
    assert kernel_rows._mask_rows(mask[:, :, :1], (2, 3, 5, 33)) == ((15, 2), one)
    assert kernel_rows._mask_rows(mask[:, 0], (2, 5, 33)) == ((1, 10), one)
    assert kernel_rows._mask_rows(mask[0, 0, 0], (2, 3, 5, 33)) == (one, one)
    assert kernel_rows._mask_rows(mask[..., :1], (2, 3, 5, 33)) is None
    assert kernel_rows._mask_rows(mask, (3, 3, 5, 33)) is None
    assert kernel_rows._mask_rows(mask, (5, 33)) is None
