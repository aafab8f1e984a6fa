"""A device without memory: garbage is given back and the operation runs again; else OutOfMemoryError says what is held.
And the figures of memory: the simulated pool's, and the peak that is kept beside CuPy's pool."""
from __future__ import annotations

import gc

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import cuda
from tinytorch_gpu.backend import gpu, simulated

MIB = 1 << 20


@pytest.fixture
def room():
    """Only some more MiB than what lives now; no automatic collection, so that garbage stays garbage."""
    gc.collect()
    simulated.empty_cache()
    gc.disable()

    def limit(mib):
        simulated.set_limit(simulated.memory_stats()["held"] + mib * MIB)

    with tt.device("sim"):
        yield limit
    simulated.set_limit(None)
    gc.enable()


def floats(mib):
    return mib * MIB // 4


def cycle(array):
    """Garbage that only the collector frees."""
    holder = [array]
    holder.append(holder)


OPERATIONS = {
    "Mul": lambda x: x * x, "GELU": lambda x: tt.nn.functional.gelu(x),
    "Cast": lambda x: x.double()[: x.numel() // 2], "zeros": lambda x: tt.zeros(x.shape),
    "tensor": lambda x: tt.tensor(np.ones(x.shape, np.float32)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_garbage_in_cycles_is_collected_and_the_operation_runs_again(room, name):
    x = tt.ones(floats(1))
    room(16)
    for _ in range(14):
        cycle(tt.zeros(floats(1)))
    result = OPERATIONS[name](x)
    more = [OPERATIONS[name](x) for _ in range(1)]
    assert result.numel() and more
    for _ in range(15):
        cycle(tt.zeros(floats(1)))
    assert np.isfinite(OPERATIONS[name](x).sum().item())


def test_it_really_fails_without_the_collection(room, monkeypatch):
    x = tt.ones(floats(1))
    room(8)
    for _ in range(8):
        cycle(tt.zeros(floats(1)))
    monkeypatch.setattr(gc, "collect", lambda: 0)
    with pytest.raises(tt.OutOfMemoryError):
        x * x


def test_blocks_of_other_sizes_are_given_back(room):
    x = tt.ones(floats(1))
    room(8)
    small = [tt.zeros(floats(1)) for _ in range(8)]
    del small
    assert tt.zeros(floats(6)).numel() + (x * 2).numel() == floats(7)


@pytest.mark.parametrize("after", range(4))
def test_one_failure_anywhere_in_a_step_changes_nothing(after, rng):
    """Forward, backward and the update give the same bits when one allocation of them fails once."""
    host = rng.standard_normal((6, 5)).astype(np.float32)

    def step(fail):
        tt.manual_seed(0)
        with tt.device("sim"):
            model = tt.nn.Sequential(tt.nn.Linear(5, 7), tt.nn.Tanh(), tt.nn.Linear(7, 2))
            x = tt.tensor(host)
            if fail:
                simulated.fail_next_allocation(after=after * 3)
            loss = (model(x) * model(x)).sum()
            loss.backward()
            return loss.item(), [p.grad.numpy(force=True) for p in model.parameters()]

    plain, failed = step(False), step(True)
    assert plain[0] == failed[0]
    for a, b in zip(plain[1], failed[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_the_error_says(room):
    x = tt.ones(floats(3))
    keep = tt.ones(floats(2))
    room(4)
    with pytest.raises(tt.OutOfMemoryError) as caught:
        tt.exp(x.reshape(1, -1).expand(4, floats(3)))
    text = str(caught.value)
    assert text.startswith("[Exp] Out of memory allocating 12,582,912 bytes") and "also after freeing" in text, text
    assert "arrays hold" in text and "the pool" in text and "of its limit of" in text
    assert "float32 (786432,) 3.0 MiB, float32 (524288,) 2.0 MiB" in text
    assert cuda.OutOfMemoryError is tt.OutOfMemoryError and issubclass(tt.OutOfMemoryError, RuntimeError)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    with pytest.raises(tt.OutOfMemoryError, match=r"^\[zeros\] "):
        tt.zeros(floats(100))
    with pytest.raises(tt.OutOfMemoryError, match=r"^\[tensor\] "):
        tt.tensor(np.zeros(floats(100), np.float32))
    assert keep.sum().item() == floats(2), "the device goes on"


def test_the_failed_attempt_holds_nothing(room):
    before = simulated.memory_stats()["current"]
    x = tt.ones(floats(1), dtype=tt.float16)
    room(5)
    try:  # pytest.raises leaves a cycle of its own
        tt.softmax(x.reshape(1, -1).expand(16, floats(1)), -1)
    except tt.OutOfMemoryError:
        failed = True
    assert failed
    del x
    assert simulated.memory_stats()["current"] == before


def test_in_backward(room):
    x = tt.ones(floats(1), requires_grad=True)
    y = (x * 2) * x
    room(1)
    with pytest.raises(tt.OutOfMemoryError):
        y.backward(tt.ones(1).expand(floats(1)))
    simulated.set_limit(None)
    y = (x * 2).exp().sum()
    room(3)
    for _ in range(3):
        cycle(tt.zeros(floats(1)))
    y.backward()
    assert x.grad.shape == x.shape


def test_the_hosts_memory_errors_stay():
    with pytest.raises(MemoryError):
        tt.zeros(1 << 55, dtype=tt.float64, device="cpu")


def test_memory_held_for_another_stream_is_let_go(room):
    from tinytorch_gpu.backend import streams as crossing

    s = cuda.Stream("sim")
    x = tt.ones(floats(1))
    room(6)
    for _ in range(3):
        y = tt.zeros(floats(1))
        with cuda.stream(s):
            total = y.sum() + x.sum()
        del y
    assert sum(map(len, crossing._reading.values())) >= 3
    assert tt.zeros(floats(5)).numel() and total.item() == floats(1)


# figures

def test_figures_of_the_simulated_pool():
    gc.collect()
    cuda.reset_peak_memory_stats("sim")
    before = cuda.memory_allocated("sim")
    assert cuda.max_memory_allocated("sim") == before
    x = tt.zeros(floats(4), device="sim")
    del x
    y = tt.zeros(floats(1), device="sim")
    assert cuda.memory_allocated("sim") == before + MIB and y.numel()
    assert cuda.max_memory_allocated("sim") == before + 4 * MIB
    text = cuda.memory_summary("sim")
    assert all(word in text for word in ("current", "peak", "held"))


class Pool:
    """What CuPy's MemoryPool answers, without a device."""

    def __init__(self):
        self.used = 100

    def used_bytes(self):
        return self.used


def test_the_peak_beside_cupys_pool():
    """CuPy's own MemoryHook class, called as its pool calls it."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: its MemoryHook is what is tested")
    pool = Pool()
    peak = gpu.make_peak(cupy.cuda.MemoryHook, pool, 0)
    peak.listen()
    peak.listen()  # once for a thread
    try:
        assert peak.read(pool.used) == 100
        allocate(peak, pool, 1000)
        allocate(peak, pool, 500)
        free(peak, pool, 1000)
        assert (peak.read(pool.used), peak.current) == (1600, 600)
        peak.malloc_postprocess(device_id=0, size=9999, mem_size=9999, mem_ptr=0, pmem_id=0)  # failed
        peak.malloc_postprocess(device_id=1, size=9999, mem_size=9999, mem_ptr=1, pmem_id=1)  # another device
        peak.free_postprocess(device_id=1, mem_size=9999, mem_ptr=1, pmem_id=1)
        assert peak.read(pool.used) == 1600
        peak.reset(pool.used)
        assert peak.read(pool.used) == 600
        pool.used = 5000  # another thread allocated
        assert peak.read(pool.used) == 5000
        from cupy.cuda import memory_hook

        assert peak.name in memory_hook.get_memory_hooks() if hasattr(memory_hook, "get_memory_hooks") else True
    finally:
        peak.__exit__(None, None, None)


def allocate(peak, pool, n):
    pool.used += n
    peak.malloc_postprocess(device_id=0, size=n - 12, mem_size=n, mem_ptr=4096, pmem_id=7)


def free(peak, pool, n):
    pool.used -= n
    peak.free_postprocess(device_id=0, mem_size=n, mem_ptr=4096, pmem_id=7)


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_exact():
    cuda.reset_peak_memory_stats("cuda")
    before = cuda.memory_allocated("cuda")
    x = tt.zeros(floats(64), device="cuda")
    del x
    assert cuda.max_memory_allocated("cuda") == before + 64 * MIB and cuda.memory_allocated("cuda") == before
