"""A program's own kernels: an Operator of a formula and a kernel, several outputs, tuning, CuPy's kernel objects."""
from __future__ import annotations

import json
import re
import types
from pathlib import Path

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import ops
from tinytorch_gpu.backend import kernel_tuning
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.backend.kernel import ready
from tinytorch_gpu.kernel import Kernel, Operator, Tuned, checking, custom_vjp, fits, from_cupy, use_kernels

CUBE = r"""
template <typename T> __global__ void cube(const T* x, T* y, long long n) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = (T)((float)x[i] * (float)x[i] * (float)x[i]);
}
"""
cube = Kernel(CUBE)


class Cube(Operator):
    """x^3: the formula runs anywhere, the kernel where it fits."""

    opmath = True

    def forward(node, x):
        node.save(x)
        return x * x * x

    def fused(node, x):
        if not fits(x):
            return None
        node.save(x)
        y = node.xp.empty_like(x)
        cube((-(-x.size // 256),), (256,), x, y, x.size)
        return y

    def backward(node, grad):
        (x,) = node.saved
        return ops.mul(grad, ops.mul(ops.square(x), 3))


@pytest.mark.parametrize("dtype", [tt.float32, tt.float16, tt.bfloat16], ids=lambda d: d.name)
def test_formula_and_kernel_agree(where, counted, rng, dtype):
    host = rng.uniform(-2, 2, (5, 37))
    results = []
    for fused in (True, False):
        x = tt.tensor(host, dtype=dtype, device=where, requires_grad=True)
        with use_kernels(fused), checking():
            y = Cube.apply(x)
            y.sum().backward()
        results.append((y.detach(), x.grad))
    assert counted == ["cube"]
    for a, b in zip(*results):
        tt.testing.assert_close(a, b)  # one rounding more or less
    x64 = tt.tensor(host, dtype=dtype, device="cpu").double().numpy()
    eps = float(tt.finfo(dtype).eps)
    np.testing.assert_allclose(results[0][0].cpu().double().numpy(), x64**3, rtol=2 * eps, atol=1e-6)


def test_gradients_of_it(device, where):
    x = tt.rand(4, dtype=tt.float64, requires_grad=True)
    assert tt.autograd.gradcheck(Cube.apply, x) and tt.autograd.gradgradcheck(Cube.apply, x)
    y = tt.rand(4, device=where, requires_grad=True)  # second order after a fused forward: the formula
    (g,) = tt.autograd.grad(Cube.apply(y).sum(), y, create_graph=True)
    (h,) = tt.autograd.grad(g.sum(), y)
    tt.testing.assert_close(h, 6 * y.detach())


def test_under_autocast(where, counted):
    class Lower(Cube):
        autocast = "lower"

    x = tt.rand(9, device=where, requires_grad=True)
    with tt.autocast(where.type, tt.bfloat16):
        y = Lower.apply(x)
    y.sum().backward()
    assert y.dtype == tt.bfloat16 and x.grad.dtype == tt.float32 and counted == ["cube"]


def test_a_kernel_alone_with_a_kernel_for_its_backward(where, device):
    both = r"""
    __global__ void polar(const float* x, const float* y, float* r, float* a, long long n) {
        const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
        if (i < n) { r[i] = sqrtf(x[i] * x[i] + y[i] * y[i]); a[i] = atan2f(y[i], x[i]); }
    }
    __global__ void polar_backward(const float* x, const float* y, const float* gr, const float* ga, float* gx,
                                   float* gy, long long n) {
        const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
        if (i >= n) return;
        const float square = x[i] * x[i] + y[i] * y[i], r = sqrtf(square);
        gx[i] = gr[i] * x[i] / r - ga[i] * y[i] / square;
        gy[i] = gr[i] * y[i] / r + ga[i] * x[i] / square;
    }
    """
    forward, backward = Kernel(both, "polar"), Kernel(both, "polar_backward")

    class Polar(Operator):
        def fused(node, x, y):
            node.save(x, y)
            r, a = node.xp.empty_like(x), node.xp.empty_like(x)
            forward((-(-x.size // 64),), (64,), x, y, r, a, x.size)
            return r, a

        def backward(node, gr, ga):
            x, y = node.saved
            gr, ga = ops.contiguous(gr), ops.contiguous(ga)  # a gradient may be one number, seen as many
            gx, gy = node.xp.empty_like(x), node.xp.empty_like(x)
            backward((-(-x.size // 64),), (64,), x, y, gr, ga, gx, gy, x.size)
            return gx, gy

    x, y = (tt.rand(70, device=where).add_(0.1).requires_grad_() for _ in "xy")
    r, a = Polar.apply(x, y)
    (r.sum() + 2 * a.sum()).backward()
    gx, gy = x.grad.clone(), y.grad.clone()
    x.grad = y.grad = None
    ((x * x + y * y).sqrt().sum() + 2 * tt.atan2(y, x).sum()).backward()
    tt.testing.assert_close(gx, x.grad)
    tt.testing.assert_close(gy, y.grad)
    with pytest.raises(NotImplementedError, match="it has no formula"):
        Polar.apply(tt.rand(3, device="cpu"), tt.rand(3, device="cpu"))


def test_a_file_is_read_again_when_it_changes(where, tmp_path):
    path = tmp_path / "scale.cu"
    for factor in (2, 3):
        path.write_text("__global__ void scale(const float* x, float* y) "
                        f"{{ y[threadIdx.x] = {factor} * x[threadIdx.x]; }}\n")
        x = tt.ones(4, device=where)
        y = tt.empty(4, device=where)
        Kernel(path)((1,), (4,), x._array, y._array)
        assert y.tolist() == [factor] * 4


def test_a_file_of_the_librarys_name_does_not_replace_it(where, tmp_path, monkeypatch):
    (tmp_path / "rows.cu").write_text('__global__ void softmax_forward(float* x) { x[0] = 1; }')
    monkeypatch.chdir(tmp_path)
    assert len(kernel_tuning.read("rows.cu").signatures) > 1
    assert list(kernel_tuning.read("./rows.cu").signatures) == ["softmax_forward"]


# tuning

class Clock:
    """Stands for cupy.cuda where times are asked for: a launch's time is looked up by its block size."""

    def __init__(self, backend, times):
        self.backend, self.times, self.now, self.asked = backend, times, 0.0, 0
        outer = self
        self.type, self.xp = "cuda", types.SimpleNamespace(cuda=types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda i: {"name": b"a GPU"}),
            get_current_stream=lambda: types.SimpleNamespace(is_capturing=lambda: outer.capturing),
            Event=lambda: types.SimpleNamespace(record=lambda: None, synchronize=lambda: None),
            get_elapsed_time=lambda a, b: outer.elapsed()))
        self.capturing, self.last = False, None

    def elapsed(self):
        self.asked += 1
        return self.times[self.last]


@pytest.fixture
def clock(where, monkeypatch, tmp_path):
    clock = Clock(backend_for(where), {64: 3.0, 128: 1.0, 256: 2.0})
    monkeypatch.setenv("TINYTORCH_CACHE", str(tmp_path))
    monkeypatch.setattr(kernel_tuning, "backend_of", lambda a: clock)
    call = Tuned._launch

    def noted(self, i, *args):
        clock.last = self.choices[i]["threads"]
        call(self, i, *args)

    monkeypatch.setattr(Tuned, "_launch", noted)
    return clock


ADD = r"""
template <int ITEMS> __global__ void add_one(float* x, long long n) {
    const long long first = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * ITEMS;
    for (long long i = first; i < first + ITEMS && i < n; ++i) x[i] += 1;
}
"""


def test_the_fastest_choice_is_found_and_kept(where, clock, monkeypatch, tmp_path):
    if where.type == "cuda":
        pytest.skip("a made-up clock goes with the simulated device")
    monkeypatch.setenv("TINYTORCH_CACHE", str(tmp_path / "emulator"))  # not the folder that is looked at
    add = Tuned(ADD, threads=(64, 128, 256), ITEMS=(1, 4))
    assert len(add.choices) == 6
    monkeypatch.setenv("TINYTORCH_CACHE", str(tmp_path))
    x = tt.zeros(1000, device=where)._array

    def grid(c):
        return -(-x.size // (c["threads"] * c["ITEMS"]))

    add(grid, x, x.size)
    assert clock.last == 128 and clock.asked == 6 * kernel_tuning.TRIALS
    assert (tt.Tensor(x) == 1).all()  # in place, and as often as it was called: the trials were put back
    add(grid, x, x.size)
    assert clock.asked == 6 * kernel_tuning.TRIALS
    again = Tuned(ADD, threads=(64, 128, 256), ITEMS=(1, 4))  # another process: from the disk
    again(grid, x, x.size)
    assert clock.asked == 6 * kernel_tuning.TRIALS and clock.last == 128
    assert (tt.Tensor(x) == 3).all()
    (path,) = tmp_path.glob("tuning/*.json")
    assert list(json.loads(path.read_text()).values()) == [2]
    path.write_text("{ damaged")
    fresh = Tuned(ADD, threads=(64, 128, 256), ITEMS=(1, 4))
    fresh(grid, x, x.size)
    assert clock.asked == 12 * kernel_tuning.TRIALS and json.loads(path.read_text())
    clock.capturing = True
    fourth = Tuned(ADD, threads=(64,), ITEMS=2)
    fourth(lambda c: -(-x.size // (c["threads"] * 2)), x, x.size)
    assert clock.last == 64 and clock.asked == 12 * kernel_tuning.TRIALS


def test_without_a_gpu_the_first_choice_runs(where):
    if where.type == "cuda":
        pytest.skip("tuned there")
    add = Tuned(ADD, threads=(64, 128), ITEMS=(2, 1))
    x = tt.zeros(100, device=where)._array
    with checking():
        add(lambda c: -(-x.size // (c["threads"] * c["ITEMS"])), x, x.size)
    assert (tt.Tensor(x) == 1).all()
    with pytest.raises(ValueError, match="no choice for ITEMS"):
        Tuned(ADD, ITEMS=())
    with pytest.raises(TypeError, match="expected an array for x"):
        add(1, [1.0], 1)


# CuPy's own kernel objects

@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed")


def test_custom_vjp_of_an_elementwise_kernel(cupy, where, device):
    kernel = from_cupy(cupy.ElementwiseKernel("T x, T y", "T z", "z = (x - y) * (x - y)", "squared_difference"))
    f = custom_vjp(kernel, formula=lambda x, y: (x - y).square())
    f.defvjp(lambda x, y: (kernel(x, y), (x, y)),
             lambda kept, grad: (2 * grad * (kept[0] - kept[1]), -2 * grad * (kept[0] - kept[1])))
    x = tt.rand(3, 4, device=where, requires_grad=True)
    y = tt.rand(3, 4, device=where, requires_grad=True)
    z = f(x, y)
    z.sum().backward()
    tt.testing.assert_close(z.detach(), (x - y).detach().square())
    tt.testing.assert_close(x.grad, 2 * (x - y).detach())
    tt.testing.assert_close(y.grad, -x.grad)
    assert "squared_difference" in repr(z)
    (g,) = tt.autograd.grad(f(x, y).sum(), x, create_graph=True)  # second order by the formula
    (h,) = tt.autograd.grad(g.sum(), x)
    tt.testing.assert_close(h, tt.full_like(h, 2.0))
    a, b = (tt.rand(3, dtype=tt.float64, device="cpu", requires_grad=True) for _ in "ab")
    assert tt.autograd.gradcheck(f, (a, b)) and tt.autograd.gradgradcheck(f, (a, b))
    with use_kernels(False):
        assert f(x, y).grad_fn.name() != "squared_difference"
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        w = x * 1
        out = f(w, y)
        w.add_(1)
        out.sum().backward()


def test_elementwise_kernels_as_cupy_calls_them(cupy, where, rng):
    backend = backend_for(where)
    xp = backend.xp
    host = rng.standard_normal((3, 4)).astype(np.float32)
    x, row = backend.from_host(host), backend.from_host(host[0])
    scaled = from_cupy(cupy.ElementwiseKernel("T x, float64 by, raw T table", "T y, int32 sign",
                                              "y = x * (T)by + table[i % 4]; sign = x > 0 ? 1 : -1", "scaled"))
    y, sign = scaled(x, 2.5, row)
    np.testing.assert_allclose(backend.to_host(y), host * np.float32(2.5) + host[0], rtol=1e-6)
    np.testing.assert_array_equal(backend.to_host(sign), np.where(host > 0, 1, -1))
    add = from_cupy(cupy.ElementwiseKernel("T x, T y", "T z", "z = x + y", "add"))
    np.testing.assert_array_equal(backend.to_host(add(x, row)), host + host[0])  # broadcast
    np.testing.assert_array_equal(backend.to_host(add(x.T, x.T)), host.T * 2)
    out = xp.zeros((3, 4), np.float32)
    add(x, row, out)
    np.testing.assert_array_equal(backend.to_host(out), host + host[0])
    half = add(x.astype(np.float16), x.astype(np.float16))
    assert half.dtype == np.float16
    count = from_cupy(cupy.ElementwiseKernel("raw T x", "T y", "y = x[size - 1 - i]".replace("size", "4"), "reverse"))
    np.testing.assert_array_equal(backend.to_host(count(row, size=4)), host[0][::-1])
    with pytest.raises(TypeError, match="Wrong number of arguments"):
        add(x)
    with pytest.raises(TypeError, match="mismatched"):
        add(x, x.astype(np.float16))
    with pytest.raises(ValueError, match="Loop size is undecided"):
        count(row)
    with pytest.raises(RuntimeError, match="needs arrays on a GPU"):
        add(host, host)


def test_custom_vjp_of_a_raw_kernel(cupy, where):
    raw = from_cupy(cupy.RawKernel(
        'extern "C" __global__ void twice(const float* x, float* y, int n) '
        "{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = 2 * x[i]; }", "twice"))

    def launch(x):
        y = backend_for(where).xp.empty_like(x)
        raw((-(-x.size // 32),), (32,), (x, y, np.int32(x.size)))
        return y

    twice = custom_vjp(launch, autocast="float32").defvjp(lambda x: (launch(x), None), lambda kept, grad: launch(grad))
    x = tt.rand(50, device=where, requires_grad=True)
    twice(x).sum().backward()
    assert (x.grad == 2).all() and twice(x.detach()._array).dtype == np.float32
    with tt.autocast(where.type):
        assert twice(x.half()).dtype == tt.float32
    with pytest.raises(RuntimeError, match="first order only"):
        tt.autograd.grad(twice(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="needs arrays on a GPU"):
        raw((1,), (1,), (np.zeros(1, np.float32), np.zeros(1, np.float32), np.int32(1)))


def test_the_program_of_the_documentation(cupy, device):
    text = (Path(__file__).resolve().parents[1] / "docs" / "kernels.md").read_text(encoding="utf-8")
    (program,) = [found for found in re.findall(r"```python\n(.*?)```", text, re.S) if "custom_vjp(" in found]
    if not ready(backend_for(tt.device("sim"))):
        pytest.skip("nothing executes kernels here")
    exec(compile(program, "docs/kernels.md", "exec"), {"__name__": "documentation"})


def test_custom_vjp_needs_its_parts(device):
    plain = custom_vjp(lambda x: x * 2)
    x = tt.rand(3, requires_grad=True)
    assert not plain(x.detach()).requires_grad
    with pytest.raises(RuntimeError, match="call .defvjp"):
        plain(x)
    with pytest.raises(TypeError, match="expected function to be callable"):
        custom_vjp(3)
    with pytest.raises(TypeError, match="expected an array"):
        custom_vjp(lambda x: 1.0)(x.detach())
    with pytest.raises(TypeError, match="RawKernel or cupy.ElementwiseKernel"):
        from_cupy(lambda x: x)
    two = custom_vjp(lambda x, y: x * y).defvjp(lambda x, y: (x * y, (x, y)), lambda kept, g: g)
    with pytest.raises(RuntimeError, match="must return 2 gradients"):
        two(x, x).sum().backward()
    several = custom_vjp(lambda x, k: (x * k, x + k)).defvjp(
        lambda x, k: ((x * k, x + k), k), lambda k, g, h: (g * k + h, None))
    a, b = several(x, 3)
    (a.sum() + b.sum()).backward()
    assert (x.grad == 4).all()
