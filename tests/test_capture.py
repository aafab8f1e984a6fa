"""Graph capture on the simulated device: what CUDA and CuPy refuse is refused, and a whole train step is not."""
from __future__ import annotations

import contextlib
import gc

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import simulated
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.backend.simulated import streams as machinery

F = tt.nn.functional
xp = simulated.xp
cuda = xp.cuda
put = simulated.asarray_from_host
UNSUPPORTED = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"


@pytest.fixture(autouse=True)
def on_the_simulated_device():
    machinery._alive.clear()  # what the traceback of a failed test holds
    machinery.local.stream = None
    assert not machinery.active()
    with tt.device("sim"):
        yield
    machinery.local.stream = None
    if machinery.active():
        gc.collect()
    assert not machinery.active(), "the test left a stream"


@contextlib.contextmanager
def refused(match=UNSUPPORTED, kind=RuntimeError, spoils=True):
    """A capture in which one thing is refused; a refusal by CUDA spoils the whole."""
    stream = cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(kind, match=match):
            yield
        if spoils:
            with pytest.raises(cuda.runtime.CUDARuntimeError, match="due to a previous error during capture"):
                stream.end_capture()
        else:
            stream.end_capture()
    assert not stream.is_capturing()


WAITS = {
    "get": lambda x: x.get(), "item": lambda x: x[0].item(), "bool": lambda x: bool(x[0]),
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x[0]), "nonzero": lambda x: xp.nonzero(x), "one-argument where": lambda x: xp.where(x > 1),
    "mask": lambda x: x[x > 1], "unique": lambda x: xp.unique(x), "repr": repr,
    "device": lambda x: cuda.Device().synchronize(), "stream": lambda x: cuda.get_current_stream().synchronize(),
    "query": lambda x: cuda.get_current_stream().done, "simulated": lambda x: simulated.synchronize(),
    "host to device": lambda x: put(np.ones(3)), "asarray of a list": lambda x: xp.asarray([1.0, 2.0]),
    "set": lambda x: x.set(np.ones(4)),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_and_copies_of_host_memory_are_refused(name):
    x = put(np.arange(4.0))
    cuda.Device().synchronize()
    with refused():
        WAITS[name](x)


LIBRARIES = {
    "matmul": (lambda x: x @ x, "cuBLAS"), "dot": (lambda x: xp.dot(x, x), "cuBLAS"),
    "tensordot": (lambda x: xp.tensordot(x, x, 1), "cuBLAS"), "inner": (lambda x: xp.inner(x, x), "cuBLAS"),
    "method": (lambda x: x.dot(x), "cuBLAS"), "einsum": (lambda x: xp.einsum("ij,jk", x, x), "cuBLAS"),
    "inv": (lambda x: xp.linalg.inv(x), "cuSOLVER"), "svd": (lambda x: xp.linalg.svd(x), "cuSOLVER"),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_cupys_libraries_are_refused_in_its_words(name):
    x = put(np.eye(3))
    cuda.Device().synchronize()
    call, library = LIBRARIES[name]
    with refused(f"calling {library} API during stream capture is currently unsupported", NotImplementedError, False):
        call(x)


def test_waiting_for_work_outside_is_refused():
    other = cuda.Stream(non_blocking=True)
    outside = other.record()
    with refused("cudaErrorStreamCaptureIsolation"):
        cuda.get_current_stream().wait_event(outside)
    with refused("cudaErrorCapturedEvent", spoils=False):
        cuda.get_current_stream().record().synchronize()


def test_the_null_stream_and_a_blocking_stream_that_captures():
    x = put(np.ones(3))
    blocking = cuda.Stream()
    with blocking:
        blocking.begin_capture()
        x + 1
        cuda.Stream.null.use()
        with pytest.raises(cuda.runtime.CUDARuntimeError, match="legacy stream depend on a capturing blocking stream"):
            x * 2
        blocking.use()
        blocking.end_capture()
    free = cuda.Stream(non_blocking=True)
    with free:
        free.begin_capture()
        y = x + 1
        with cuda.Stream.null:
            assert ((x * 2).get() == 2).all(), "a non-blocking stream leaves the null stream alone"
        graph = free.end_capture()
        graph.launch()
        assert (y.get() == 2).all()


def test_begin_and_end_have_their_order():
    s, t = cuda.Stream(non_blocking=True), cuda.Stream(non_blocking=True)
    with pytest.raises(cuda.runtime.CUDARuntimeError, match="Unsupported"):
        cuda.Stream.null.begin_capture()
    with pytest.raises(cuda.runtime.CUDARuntimeError, match="StreamCaptureUnmatched"):
        s.end_capture()
    with pytest.raises(NotImplementedError):
        s.begin_capture(mode=0)
    s.begin_capture(mode=cuda.runtime.streamCaptureModeRelaxed)
    assert s.is_capturing() and not t.is_capturing() and cuda.runtime.streamIsCapturing(s.ptr)
    with pytest.raises(cuda.runtime.CUDARuntimeError, match="Unsupported"):
        s.begin_capture()
    assert len(s.end_capture()) == 0


def test_a_graph_repeats_work_on_the_same_memory():
    x, y = put(np.array([1.0, 2.0])), xp.zeros(2)
    with simulated.capture() as c:
        y += x * 10
        x[...] = x + 1
    assert x.tolist() == [1, 2] and y.tolist() == [0, 0], "nothing runs while it is recorded"
    c.launch()
    assert (x.tolist(), y.tolist()) == ([2, 3], [10, 20])
    x[...] = 5
    c.launch()
    c.launch()
    assert (x.tolist(), y.tolist()) == ([7, 7], [120, 130])
    s = cuda.Stream(non_blocking=True)
    cuda.Device().synchronize()
    c.graph.launch(stream=s)
    assert x.tolist() == [7, 7]
    s.synchronize()
    assert x.tolist() == [8, 8]


def test_fork_and_join():
    x = put(np.array([3.0]))
    a, b = cuda.Stream(non_blocking=True), cuda.Stream(non_blocking=True)
    cuda.Device().synchronize()

    def capture(join):
        with a:
            a.begin_capture()
            y = x + 1
            b.wait_event(a.record())
            assert b.is_capturing()
            with b:
                z = y * 2
            if join:
                a.wait_event(b.record())
                z = z + y
            return a.end_capture(), z

    with pytest.raises(cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureUnjoined"):
        capture(False)
    graph, z = capture(True)
    assert not b.is_capturing()
    graph.launch(a)
    a.synchronize()
    assert z.item() == 12


def test_capture_says_the_first_error():
    with pytest.raises(ZeroDivisionError), simulated.capture():
        1 / 0  # noqa: B018
    with pytest.raises(cuda.runtime.CUDARuntimeError, match="not permitted when"), simulated.capture():
        xp.ones(3).get()


# a train step

class Net(tt.nn.Module):
    """Every family of a small transformer: embedding, normalization, attention, products, activation, loss."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = tt.nn.Embedding(11, 8), tt.nn.LayerNorm(8)
        self.up, self.down = tt.nn.Linear(8, 16), tt.nn.Linear(16, 11)

    def forward(self, tokens):
        h = self.embedding(tokens)
        q = self.norm(h).view(2, 5, 2, 4).transpose(1, 2)
        h = h + F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).reshape(2, 5, 8)
        return self.down(F.gelu(self.up(h)))


def training(optimizer, dtype, rng):
    """(model, scaler, step): a step with autocast, clipping and, for float16, the scaler."""
    tt.manual_seed(0)
    model = Net()
    optimizer = getattr(tt.optim, optimizer)(model.parameters(), lr=1e-2)
    scaler = tt.amp.GradScaler("sim", init_scale=1024.0) if dtype is tt.float16 else None
    x, y = (tt.tensor(rng.integers(0, 11, (2, 5))) for _ in range(2))

    def step():
        with tt.autocast("sim", dtype=dtype) if dtype is not None else contextlib.nullcontext():
            loss = F.cross_entropy(model(x).view(-1, 11), y.view(-1))
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        tt.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=False)
        return loss

    return model, scaler, step


@pytest.mark.parametrize("dtype", [None, tt.float16, tt.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "SGD"])
def test_a_train_step_passes_and_repeats_to_the_bit(optimizer, dtype, seed):
    """Two steps eagerly and four replays of the third give the weights of six eager steps."""
    eager, _, step = training(optimizer, dtype, np.random.default_rng(seed))
    losses = [step().item() for _ in range(6)]
    model, scaler, step = training(optimizer, dtype, np.random.default_rng(seed))
    assert [step().item() for _ in range(2)] == losses[:2]
    with simulated.counters() as counted, simulated.capture() as c:
        loss = step()
    assert counted.device_to_host == 0  # tables of addresses are uploaded on a stream of their own, which is allowed
    for expected in losses[2:]:
        c.launch()
        assert loss.item() == expected
    for p, e in zip(model.parameters(), eager.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(force=True), e.numpy(force=True))
    if scaler is not None:
        assert scaler.get_scale() == 1024.0
    del c


@pytest.mark.parametrize("dtype", [None, tt.float16], ids=["fp32", "fp16"])
def test_the_formulas_pass_too(dtype, seed):
    with use_kernels(False):
        _, _, step = training("AdamW", dtype, np.random.default_rng(seed))
        step(), step()
        with simulated.capture() as c:
            loss = step()
        c.launch()
        assert np.isfinite(loss.item())
        del c
