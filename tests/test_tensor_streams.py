"""Tensors on several streams: what one stream made and another uses is waited for, on the simulated device, whose
streams delay their work so that a missing wait reads unwritten or overwritten memory."""
from __future__ import annotations

import gc

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import cuda
from tinytorch_gpu.backend import simulated
from tinytorch_gpu.backend import streams as crossing
from tinytorch_gpu.backend.simulated import streams as machinery

F = tt.nn.functional
xp = simulated.xp


@pytest.fixture(autouse=True)
def on_the_simulated_device():
    machinery._alive.clear()  # what the traceback of a failed test holds
    assert not machinery.active()
    with tt.device("sim"):
        yield
    machinery.local.stream = None
    if machinery.active():
        gc.collect()
    assert not machinery.active(), "the test left a stream"
    assert not crossing.several and not crossing._homes


@pytest.fixture(params=["late", "others first"])
def order(request):
    """Both orders in which the simulated device runs unrelated work."""
    if request.param == "late":
        yield
    else:
        with simulated.others_first():
            yield


def sides(n):
    return [cuda.Stream("sim") for _ in range(n)]


def test_tensors_made_on_one_stream_and_used_on_another(order, rng):
    host = rng.standard_normal((6, 6)).astype(np.float32)
    a, b = sides(2)
    with cuda.stream(a):
        x = tt.tensor(host)
        y = tt.exp(x) @ x
        made = tt.ones(6, 6)
    with cuda.stream(b):
        z = y * 2 + made
        w = F.softmax(z, dim=-1)
    total = (w + y).sum()
    expected = np.exp(host) @ host
    np.testing.assert_allclose(z.numpy(force=True), expected * 2 + 1, rtol=1e-4, atol=1e-4)
    e = np.exp(expected * 2 + 1 - (expected * 2 + 1).max(-1, keepdims=True))
    np.testing.assert_allclose(total.item(), (e / e.sum(-1, keepdims=True) + expected).sum(), rtol=1e-4, atol=1e-3)


def test_the_same_with_streams_of_the_array_library(order):
    """A program enters CuPy's streams without a word to us, and runs raw code on them."""
    s, t = xp.cuda.Stream(non_blocking=True), xp.cuda.Stream(non_blocking=True)
    with s:
        x = tt.ones(1000) * 3
        raw = x.data._array * 2  # raw code on the stream, ordered by it
        y = tt.as_tensor(raw) + 1
    with t:
        z = y * x
    assert (z.tolist(), (z + 1).sum().item()) == ([21.0] * 1000, 22_000.0)


def test_memory_dropped_while_another_stream_reads_it(order):
    (s,) = sides(1)
    x = tt.full((1000,), 3.0)
    with cuda.stream(s):
        y = x * 2
    del x
    taken = [tt.full((1000,), 100.0) for _ in range(3)]  # the null stream's blocks
    assert y.tolist() == [6.0] * 1000
    with cuda.stream(s):
        y = tt.full((1000,), 3.0)
    z = y * 2
    del y
    with cuda.stream(s):
        taken += [tt.full((1000,), 100.0) for _ in range(3)]
    assert z.tolist() == [6.0] * 1000
    assert any(crossing._reading.values())
    cuda.synchronize("sim")
    assert not crossing._held and not any(crossing._reading.values())


def test_index_tensors_and_masks_cross_streams_too(order):
    a, b = sides(2)
    x = tt.arange(10).float().requires_grad_()
    with cuda.stream(a):
        index = tt.tensor([3, 1]) + 1
        mask = tt.arange(10) > 7
        one = tt.tensor(2) + 4
    with cuda.stream(b):
        y = x[index] * 2
        z = x[mask] + tt.gather(x, 0, index)
        picked = x[one]
        hot = F.one_hot(index, 5)
        counts = tt.bincount(index)
        placed = tt.zeros(10)
        placed[index] = 1.0
        placed[mask] = 2.0
    (y.sum() + z.sum() + picked).backward()
    assert y.tolist() == [8, 4] and z.tolist() == [12, 11] and picked.item() == 6 and hot.tolist() == [
        [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    assert counts.tolist() == [0, 0, 1, 0, 1]
    assert placed.tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 2, 2] and x.grad.tolist() == [0, 0, 3, 0, 3, 0, 1, 0, 1, 1]


def test_record_stream_keeps_memory_for_raw_code():
    (s,) = sides(1)
    x = tt.full((1000,), 3.0)
    raw = x._array
    cuda.synchronize("sim")
    with cuda.stream(s):
        y = raw * 2  # raw code: nobody watches
    x.record_stream(s)
    del x, raw
    taken = [tt.full((1000,), 100.0) for _ in range(3)]
    cuda.default_stream("sim").synchronize()
    s.synchronize()
    assert (y.get() == 6).all() and taken
    with pytest.raises(RuntimeError, match=r"^\[record_stream\] the CPU has no streams"):
        tt.ones(1, device="cpu").record_stream(s)


def test_a_change_in_place_waits_for_readers_and_writers(order):
    a, b = sides(2)
    x = tt.ones(1000)
    with cuda.stream(a):
        y = x + 1
    x.mul_(50)
    assert y.tolist() == [2.0] * 1000
    with cuda.stream(b):
        x.add_(1)
        x[10:] = 4
    assert x.tolist() == [51.0] * 10 + [4.0] * 990
    with cuda.stream(a):
        assert x.sum().item() == 51 * 10 + 4 * 990


def test_backward_over_streams(order, rng, torch):
    host, weights = rng.standard_normal((5, 4)), rng.standard_normal((2, 4, 4))

    def program(t, x, w, first, second):
        with first:
            h = t.tanh(x @ w[0])
        with second:
            g = (x @ w[1]).sigmoid()
            both = h * g
        with first:
            part = (both + h).sum()
        return part + g.mean()

    x, w = tt.tensor(host, requires_grad=True), tt.tensor(weights, requires_grad=True)
    a, b = sides(2)
    null = cuda.default_stream("sim")
    tx, tw = torch.tensor(host, requires_grad=True), torch.tensor(weights, requires_grad=True)
    theirs = program(torch, tx, tw, Nothing(), Nothing())
    theirs.backward()
    for caller in (null, a, cuda.Stream("sim")):
        x.grad = w.grad = None
        with cuda.stream(caller):
            ours = program(tt, x, w, cuda.stream(a), cuda.stream(b))
            ours.backward()
            grads = [t.grad.numpy(force=True) for t in (x, w)]
            assert cuda.current_stream("sim") == caller
        for g, e in zip(grads, (tx.grad, tw.grad), strict=True):
            np.testing.assert_allclose(g, e.numpy(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-12)
    with cuda.stream(b):  # a second gradient is added to the first, by another stream
        program(tt, x, w, cuda.stream(b), cuda.stream(a)).backward()
    np.testing.assert_allclose(x.grad.numpy(force=True), 2 * tx.grad.numpy(), rtol=1e-12, atol=1e-13)


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


def test_nodes_run_on_the_stream_of_their_forward():
    (s,) = sides(1)
    seen = {}

    class Look(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x, name):
            ctx.name = name
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            seen[ctx.name] = cuda.current_stream("sim")
            return grad, None

    x = tt.ones(3, requires_grad=True)
    with cuda.stream(s):
        y = Look.apply(x * 2, "side")
    z = Look.apply(y + 0, "null")
    with cuda.stream(s):
        z.sum().backward()
    assert seen == {"side": s, "null": cuda.default_stream("sim")}
    assert x.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("fused", [True, False])
def test_training_on_a_side_stream_is_training(rng, fused):
    """The same steps on the null stream, on a side stream, and with data from a third: the same bits."""
    from tinytorch_gpu.backend.kernel import use_kernels

    data, labels = rng.standard_normal((4, 8, 10)).astype(np.float32), rng.integers(0, 5, (4, 8))

    def train(main, loader):
        tt.manual_seed(3)
        model = tt.nn.Sequential(tt.nn.Linear(10, 16), tt.nn.GELU(), tt.nn.LayerNorm(16), tt.nn.Linear(16, 5))
        optimizer = tt.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for x, y in zip(data, labels, strict=True):
            with loader():
                x, y = tt.tensor(x), tt.tensor(y)
            with main():
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return [loss.item() for loss in losses], [p.numpy(force=True) for p in model.parameters()]

    with use_kernels(fused):
        expected = train(Nothing, Nothing)
        a, b = sides(2)
        for main, loader in ((lambda: cuda.stream(a), Nothing), (lambda: cuda.stream(a), lambda: cuda.stream(b))):
            losses, weights = train(main, loader)
            assert losses == expected[0]
            with cuda.stream(a):
                for w, e in zip(weights, expected[1], strict=True):
                    np.testing.assert_array_equal(w, e)


def test_waits_are_not_repeated(monkeypatch):
    a, b = sides(2)
    waits = []
    real = xp.cuda.Stream.wait_event
    monkeypatch.setattr(xp.cuda.Stream, "wait_event", lambda self, e: (waits.append(1), real(self, e))[1])
    with cuda.stream(a):
        x, y = tt.ones(3), tt.ones(3)
        z = x + y
    with cuda.stream(b):
        w = x * y
        waits.clear()  # each stream waits once for all that was before it
        for _ in range(5):
            w = x * y + z
    assert len(waits) == 0
    with cuda.stream(a):
        x = x + 1
    with cuda.stream(b):
        w = w + x
    assert len(waits) == 1 and w.tolist() == [5.0] * 3


def test_nothing_is_asked_without_a_second_stream(monkeypatch):
    monkeypatch.setattr(crossing, "before", None)
    monkeypatch.setattr(crossing, "born", None)
    x = tt.ones(3, requires_grad=True)
    (x * 2).exp().sum().backward()
    assert x.grad is not None and not crossing.several


# torch.cuda's names

def test_names_and_defaults_are_pytorchs(torch):
    for mine, theirs in ((cuda.Stream, torch.cuda.Stream), (cuda.Event, torch.cuda.Event)):
        ours = {n for n in vars(mine) if not n.startswith("_")} - {"device", "cuda_stream", "priority"}
        assert ours == {n for n in dir(theirs) if not n.startswith("_")} - {"ipc_handle", "from_ipc_handle"} - (
            {"priority_range"} if mine is cuda.Stream else set()) - {n for n in dir(theirs) if not hasattr(mine, n)}
    for name in ("stream", "current_stream", "default_stream", "set_stream", "StreamContext", "ExternalStream"):
        assert hasattr(torch.cuda, name) and hasattr(cuda, name)


def test_streams_and_events():
    a, b = sides(2)
    null = cuda.default_stream("sim")
    assert cuda.current_stream("sim") == null and a != b and len({a, b, a}) == 2 and "0x" in repr(a)
    with cuda.stream(a) as inside:
        assert inside is a and cuda.current_stream("sim") == a
        with cuda.stream(None), b:
            assert cuda.current_stream("sim") == b
        x = tt.ones(3) + 1
        assert not a.query()
    assert cuda.current_stream("sim") == null
    raw = x._array
    e = a.record_event()
    assert not e.query()
    b.wait_stream(a)
    b.wait_event(e)
    with b:
        assert (raw.get() == 2).all()
    a.synchronize()
    assert a.query() and e.query()
    cuda.set_stream(a)
    assert cuda.current_stream("sim") == a
    cuda.set_stream(None)
    cuda.set_stream(null)
    same = cuda.ExternalStream(a.cuda_stream, "sim")
    assert same == a and cuda.stream(same._raw).stream == a
    with cuda.stream(a._raw):
        assert cuda.current_stream("sim") == a
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    assert start.query() and "not" in repr(start)
    start.wait()
    start.synchronize()
    with a:
        start.record()
        tt.ones(100).exp()
        end.record()
    with pytest.raises(RuntimeError, match="not ready"):
        start.elapsed_time(end)
    end.synchronize()
    assert start.elapsed_time(end) >= 0


def test_what_is_refused():
    with pytest.raises(RuntimeError, match=r"^\[Stream\] the CPU has no streams"):
        cuda.Stream("cpu")
    with pytest.raises(RuntimeError, match=r"^\[current_stream\] the CPU"):
        cuda.current_stream("cpu")
    with pytest.raises(TypeError, match=r"^\[stream\] expected a Stream"):
        cuda.stream(3)
    with pytest.raises(TypeError, match=r"^\[Stream\] unexpected"):
        cuda.Stream("sim", handle=3)
    with pytest.raises(ValueError, match="enable_timing=True"):
        cuda.Event().elapsed_time(cuda.Event(enable_timing=True))
    with pytest.raises(ValueError, match="recorded"):
        cuda.Event(enable_timing=True).elapsed_time(cuda.Event(enable_timing=True))
    with pytest.raises(NotImplementedError):
        cuda.Event(interprocess=True)


# the program's own arrays, kernels and pool

def test_raw_code_before_and_after_is_ordered_and_shares_memory_and_pool():
    from tinytorch_gpu.backend.kernel import Kernel
    from tinytorch_gpu.backend.simulated import emulator

    if reason := emulator.unavailable():
        pytest.skip(reason)
    add = Kernel("__global__ void add(float* x, float by, long long n) { const long long i = threadIdx.x;"
                 " if (i < n) x[i] += by; }")
    s = xp.cuda.Stream(non_blocking=True)
    pool = xp.get_default_memory_pool()
    with s:
        array = xp.arange(100, dtype=np.float32)  # the program's
        used = pool.used_bytes()
        t = tt.Tensor(array)
        assert pool.used_bytes() == used and t._array is array and t.data_ptr() == array.data.ptr
        add((1,), (128,), array, 1.0, 100)
        y = t * 2
        assert y.data_ptr() != t.data_ptr() and pool.used_bytes() == used + 512
        add((1,), (128,), y.data._array, 10.0, 100)
        z = y + t
        add((1,), (128,), array, 100.0, 100)
        array *= 2
    expected = np.arange(100) + 1.0
    np.testing.assert_array_equal(z.tolist(), expected * 2 + 10 + expected)
    assert t.tolist() == ((expected + 100) * 2).tolist() and t.data._array.data.ptr == array.data.ptr
    assert cuda.memory_allocated("sim") == pool.used_bytes() and cuda.memory_reserved("sim") == pool.total_bytes()
    del y, z
    with s:
        again = xp.empty(100, np.float32)
        assert pool.used_bytes() == used + 512 and again.size, "what a tensor leaves, raw code gets"


def test_operators_on_a_side_stream_give_the_same_bits(rng):
    """A sample of the operators, with gradients; `pytest --device sim` runs them all on the null stream."""
    from case import is_tensor, leaves, ours, tensor
    from cases import CASES

    def run(case, arrays):
        tt.manual_seed(1)
        inputs = [tensor(a, wanted and case.differentiable) for a, wanted in zip(arrays, case.wanting(arrays))]
        found = [t for t in leaves(case.fn(ours, *inputs)) if is_tensor(t)]
        if case.differentiable:
            for t in [t for t in found if t.requires_grad and not t.is_complex()]:
                (t * t.detach()).sum().backward(retain_graph=True)
            found += [t.grad for t in inputs if t.grad is not None]
        return found

    picked = [c for c in CASES if c.real and "complex" not in c.name]
    for case in rng.choice(np.array(picked, object), 40, replace=False):
        arrays = case.draw(rng, "float32")
        expected = [t.numpy(force=True) for t in run(case, arrays)]
        (s,) = sides(1)
        with cuda.stream(s):
            late = run(case, arrays)
        assert len(late) == len(expected)
        for got, e in zip(late, expected, strict=True):
            np.testing.assert_array_equal(got.numpy(force=True), e, err_msg=case.name)
        del late, got, s


def test_an_index_out_of_range_on_a_side_stream():
    (s,) = sides(1)
    x, wrong = tt.ones(3), tt.tensor([5])
    with cuda.stream(s):
        y = tt.take(x, wrong)
    assert (x + 1).tolist() == [2.0] * 3, "the null stream has not waited for it"
    with pytest.raises(IndexError, match=r"^\[take\] index 5 is out of bounds"):
        y.item()
    with cuda.stream(s):
        tt.take(x, wrong)
    with pytest.raises(IndexError, match=r"^\[take\] index 5 is out of bounds"):
        cuda.synchronize("sim")
    cuda.synchronize("sim")
