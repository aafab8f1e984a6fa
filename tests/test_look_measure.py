"""look.measure: bytes against counts by hand, synchronised times, nothing left on."""
from __future__ import annotations

import gc
import time
import tracemalloc

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.look import measure

MIB = 1 << 20


@pytest.mark.parametrize("n", [1, 3])
def test_bytes_of_temporaries_and_of_the_result(n, device):
    """The worst moment holds n temporaries and the result, of 1 MiB each; the result alone is left."""
    def run():
        kept = [tt.ones(MIB // 4) for _ in range(n)]
        result = tt.zeros(MIB // 4)
        kept.clear()
        return result

    run()
    use = measure.memory(run, device)
    assert use.result.shape == (MIB // 4,)
    assert (n + 1) * MIB <= use.peak < (n + 1) * MIB + 20_000
    assert MIB <= use.held < MIB + 20_000
    assert measure.peak(run, device)[1] == pytest.approx(use.peak, abs=5_000)


def test_bytes_in_arrays_are_exact(device, rng):
    """Python objects are in `held` only; on a device every array takes whole blocks of 512 bytes."""
    sizes = [int(n) for n in rng.integers(1, 3000, 20)]
    expected = sum(8 * n if device.type == "cpu" else -(-8 * n // 512) * 512 for n in sizes)
    for traced in (False, True):
        if traced:
            tracemalloc.start()
        try:
            use = measure.memory(lambda: [tt.zeros(n, dtype=tt.float64) for n in sizes], device, arrays=True)
        finally:
            tracemalloc.stop()
        assert use.arrays == expected <= use.held
        del use
    assert measure.memory(lambda: None, device).arrays is None


def test_what_was_there_before_does_not_count(device):
    before = tt.ones(4 * MIB)
    _, high = measure.peak(lambda: before * 2, device)
    assert 16 * MIB <= high < 16 * MIB + 50_000
    _, high = measure.peak(lambda: None, device)
    assert high < 5_000


def test_the_garbage_collector_rests(device):
    """Garbage from before that went in the middle would hide as many bytes."""
    gc.collect()
    before = gc.get_threshold()
    gc.disable()
    if device.type == "cpu":
        tracemalloc.start()
    try:
        cycle = [tt.ones(MIB)]
        cycle.append(cycle)
        del cycle
        gc.set_threshold(2, 1, 1)

        def run():
            lists = [[] for _ in range(1000)]  # would set it off
            return lists, gc.isenabled(), tt.ones(MIB)

        gc.enable()
        use = measure.memory(run, str(device))
        assert gc.isenabled() and use.result[1] is False
        assert use.held >= 4 * MIB and use.peak >= 4 * MIB
        gc.disable()
        measure.memory(lambda: None, device)
        assert not gc.isenabled()
    finally:
        tracemalloc.stop()
        gc.set_threshold(*before)
        gc.enable()


def test_tracemalloc_is_left_as_it_was():
    assert not tracemalloc.is_tracing()
    measure.peak(lambda: None, "cpu")
    assert not tracemalloc.is_tracing()
    with pytest.raises(KeyError):
        measure.peak({}.popitem, "cpu")
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        big = bytearray(8 * MIB)
        del big
        assert measure.peak(lambda: bytearray(MIB), "cpu")[1] < 2 * MIB, "the peak of before is not its own"
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_repeats_and_warm_calls(device, monkeypatch):
    """The device is waited for before and after each timed call, and the result of one is gone before the next."""
    seen = []

    class Result:
        def __del__(self):
            seen.append("gone")

    def run():
        seen.append("run")
        return Result()

    backend = backend_for(device)
    monkeypatch.setattr(backend, "synchronize", lambda index=None: seen.append("wait"))
    found = measure.seconds(run, device, repeats=3, warm=2)
    assert seen == ["wait", "run", "wait", "gone"] * 5
    assert len(found) == 3 and all(t > 0 for t in found)
    assert len(measure.seconds(run, device, repeats=1, warm=0)) == 1 and seen[-4:] == ["wait", "run", "wait", "gone"]


def test_what_is_prepared_is_not_timed(device, monkeypatch):
    seen = []
    monkeypatch.setattr(backend_for(device), "synchronize", lambda index=None: seen.append("wait"))
    measure.seconds(seen.append, device, repeats=2, warm=1, prepare=lambda: seen.append("prepare") or len(seen))
    assert [s for s in seen if s != "wait"] == ["prepare", 1, "prepare", 5, "prepare", 9]
    assert seen[:4] == ["prepare", "wait", 1, "wait"]


def test_times_are_of_the_calls():
    """Only what cannot be shorter is asserted."""
    found = measure.seconds(lambda: time.sleep(0.01), "cpu", repeats=2, warm=0)
    assert min(found) >= 0.009


def test_spread():
    assert measure.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0, "runs": 3}
    with pytest.raises(ValueError, match=r"\[spread\] no times"):
        measure.spread([])


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"\[seconds\] expected a function without arguments, got int: write lambda"):
        measure.seconds(3, "cpu")
    with pytest.raises(TypeError, match=r"\[memory\] expected a function without arguments, got NoneType"):
        measure.peak(None, "cpu")
    for options in ({"repeats": 0}, {"repeats": 2.0}, {"repeats": True}, {"warm": -1}, {"warm": None}):
        with pytest.raises(ValueError, match=rf"\[seconds\] {next(iter(options))} must be a whole number of at least"):
            measure.seconds(lambda: None, "cpu", **options)
    with pytest.raises(TypeError, match=r"\[seconds\] prepare must be a function without arguments, got int"):
        measure.seconds(lambda x: x, "cpu", prepare=3)
    with pytest.raises(RuntimeError, match=r"\[device\] expected one of cpu, cuda, sim, got 'gpu'"):
        measure.seconds(lambda: None, "gpu")
