"""torch.cuda's names: without a GPU they say so, and memory, seeds and waiting work on every device."""

from __future__ import annotations

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import cuda
from tinytorch_gpu.backend import simulated
from tinytorch_gpu.backend.device import probe
from tinytorch_gpu.types import result_type

no_gpu = pytest.mark.skipif(probe().available, reason="is about machines without a GPU")


@no_gpu
def test_without_a_gpu():
    assert not cuda.is_available() and cuda.device_count() == 0 and not cuda.is_bf16_supported()
    for ask in (
        cuda.current_device,
        cuda.get_device_name,
        cuda.mem_get_info,
        cuda.get_device_capability,
        lambda: cuda.set_device(0),
        lambda: cuda.device(0),
        lambda: cuda.memory_allocated("cuda"),
        lambda: cuda.synchronize(0),
    ):
        with pytest.raises(RuntimeError, match=r"^\[device\] cuda is not available: .+"):
            ask()
    with cuda.device(None):
        pass


def test_other_devices_are_refused_where_a_gpu_is_meant():
    with pytest.raises(ValueError, match=r"^\[set_device\] expected a cuda device, got cpu"):
        cuda.set_device("cpu")
    with pytest.raises(RuntimeError, match=r"^\[device\] expected one of"):
        cuda.memory_allocated("tpu")


def test_memory_of_the_simulated_device():
    before = cuda.memory_allocated("sim")
    cuda.reset_peak_memory_stats("sim")
    x = tt.zeros(1 << 18, device="sim")
    y = tt.zeros(1 << 18, device="sim")
    assert cuda.memory_allocated("sim") - before == 2 << 20
    del y
    assert cuda.memory_allocated("sim") - before == 1 << 20
    assert cuda.max_memory_allocated("sim") - before == 2 << 20 <= cuda.memory_reserved("sim")
    cuda.reset_peak_memory_stats("sim")
    assert cuda.max_memory_allocated("sim") - before == 1 << 20
    held = cuda.memory_reserved("sim")
    cuda.empty_cache("sim")
    assert cuda.memory_reserved("sim") <= held - (1 << 20)
    assert "current" in cuda.memory_summary("sim") and "MiB" in cuda.memory_summary("sim:0")
    del x


def test_memory_of_the_cpu():
    import tracemalloc

    tracemalloc.start()
    try:
        before = cuda.memory_allocated("cpu")
        cuda.reset_peak_memory_stats("cpu")
        x = tt.ones(1 << 20, device="cpu")
        assert 4 << 20 <= cuda.memory_allocated("cpu") - before < 5 << 20
        del x
        assert cuda.max_memory_allocated("cpu") - before >= 4 << 20 and cuda.memory_allocated("cpu") - before < 1 << 20
    finally:
        tracemalloc.stop()
    assert cuda.memory_reserved("cpu") > 0


def test_none_is_the_default_device_without_a_gpu(device):
    where = "cuda" if probe().available else device
    assert set(cuda.memory_stats()) == set(cuda.memory_stats(where))
    cuda.synchronize()
    with simulated.counters() as c:
        cuda.synchronize("sim")
        cuda.synchronize("cpu")
    assert c.synchronizations == 1


def test_seeds_and_states():
    saved = cuda.get_rng_state_all()
    cuda.manual_seed(5)
    assert cuda.initial_seed() == 5
    state = cuda.get_rng_state()
    where = "cuda" if probe().available else None
    a = tt.rand(4, device=where)
    b = tt.rand(4, device=where)
    cuda.set_rng_state(state)
    assert tt.rand(4, device=where).tolist() == a.tolist() != b.tolist()
    cuda.manual_seed_all(5)
    assert tt.rand(4, device=where).tolist() == a.tolist()
    state = cuda.get_rng_state("sim")
    a = tt.rand(3, device="sim")
    cuda.set_rng_state(state, "sim")
    assert tt.rand(3, device="sim").tolist() == a.tolist()
    with pytest.raises(ValueError, match=r"^\[set_rng_state_all\] expected \d+ states, got 0"):
        cuda.set_rng_state_all([])
    cuda.set_rng_state_all(saved)


def test_names_are_pytorchs(torch):
    assert [name for name in cuda.__all__ if not hasattr(torch.cuda, name)] == []


def test_result_type(torch):
    for a, b in (
        (tt.ones(2), 3.0),
        (tt.ones(2, dtype=tt.int64), 2.5),
        (tt.tensor(1.0), tt.ones(2, dtype=tt.float16)),
        (1, 2),
        (tt.ones(1, dtype=tt.uint8), tt.ones(1, dtype=tt.int8)),
        (True, tt.ones(2, dtype=tt.int16)),
        (1j, tt.ones(1)),
    ):
        theirs = [
            torch.ones(x.shape, dtype=getattr(torch, x.dtype.name)) if isinstance(x, tt.Tensor) else x for x in (a, b)
        ]
        if not any(isinstance(x, torch.Tensor) for x in theirs):
            theirs = [1, 2]
        assert result_type(a, b).name == str(torch.result_type(*theirs)).removeprefix("torch.")
    with pytest.raises(TypeError):
        result_type("a", tt.ones(1))


@pytest.mark.gpu
def test_on_a_gpu():
    assert cuda.is_available() and cuda.device_count() >= 1
    assert cuda.get_device_name(0) == cuda.get_device_properties().name and cuda.get_device_capability()[0] >= 5
    free, total = cuda.mem_get_info()
    assert 0 < free <= total == cuda.get_device_properties(0).total_memory
    outer = cuda.current_device()
    with cuda.device(0):
        assert cuda.current_device() == 0
    assert cuda.current_device() == outer
    before = cuda.memory_allocated()
    x = tt.zeros(1 << 20, device="cuda")
    assert cuda.memory_allocated() - before == 4 << 20
    cuda.synchronize()
    del x
