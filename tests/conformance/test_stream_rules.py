"""Streams, events, arenas and graph capture: what the package relies on, on CuPy and the simulation."""
from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def cuda(device):
    cuda = device.xp.cuda
    yield cuda
    cuda.Stream.null.use()
    cuda.Device().synchronize()


def test_current_stream_follows_with_and_use(cuda):
    null, s, t = cuda.Stream.null, cuda.Stream(non_blocking=True), cuda.Stream()
    assert cuda.get_current_stream() == null and null.ptr == 0
    with s:
        assert cuda.get_current_stream() == s and s.ptr != 0
        with t:
            assert cuda.get_current_stream() == t
        assert cuda.get_current_stream() == s
    t.use()
    assert cuda.get_current_stream() == t
    null.use()
    assert s == s and s != t and len({s, t, s}) == 2 and cuda.ExternalStream(s.ptr).ptr == s.ptr


def test_events_and_waits_order_streams(device, cuda, rng):
    a, b = cuda.Stream(non_blocking=True), cuda.Stream(non_blocking=True)
    host = rng.standard_normal(100_000)
    with a:
        x = device.put(host)
        y = device.xp.exp(x) + 1
        event = a.record()
    with b:
        b.wait_event(event)
        z = y * 2
        got = z.get()
    np.testing.assert_allclose(got, (np.exp(host) + 1) * 2, rtol=1e-12)
    event.synchronize()
    a.synchronize()
    assert event.done and a.done
    cuda.Stream.null.wait_event(b.record())
    np.testing.assert_allclose(device.get(z + y), (np.exp(host) + 1) * 3, rtol=1e-12)


def test_time_between_events(device, cuda):
    start, end = cuda.Event(), cuda.Event()
    start.record()
    device.xp.ones(1000) + 1
    end.record()
    end.synchronize()
    assert cuda.get_elapsed_time(start, end) >= 0
    assert cuda.Event().done, "an event that was not recorded has come"


def test_a_freed_block_goes_to_the_same_streams_next_array(device, cuda):
    pool = device.xp.get_default_memory_pool()
    pool.free_all_blocks()
    s = cuda.Stream(non_blocking=True)
    with s:
        address = device.xp.empty(1_000_000, np.float32).data.ptr
        assert device.xp.empty(1_000_000, np.float32).data.ptr == address
    other = device.xp.empty(1_000_000, np.float32)
    assert other.data.ptr != address
    held = pool.total_bytes()
    pool.free_all_blocks(stream=s)
    assert pool.total_bytes() == held - 4_000_256


def test_a_captured_graph_repeats_on_the_same_memory(device, cuda):
    x, y = device.put(np.array([1.0, 2.0])), device.xp.zeros(2)
    s = cuda.Stream(non_blocking=True)
    cuda.Device().synchronize()
    with s:
        x + y  # compiled before the capture
        x += 0
        y += x * 0
        s.synchronize()
        s.begin_capture()
        assert s.is_capturing()
        y += x * 10
        x += 1
        graph = s.end_capture()
        assert not s.is_capturing()
        assert device.get(x).tolist() == [1, 2]
        graph.launch()
        graph.launch(stream=s)
        assert (device.get(x).tolist(), device.get(y).tolist()) == ([3, 4], [30, 50])


@pytest.mark.parametrize("name, call", [
    ("get", lambda xp, x: x.get()), ("nonzero", lambda xp, x: xp.nonzero(x)),
    ("synchronize", lambda xp, x: xp.cuda.get_current_stream().synchronize()),
])
def test_a_capture_refuses_waits(device, cuda, name, call):
    x = device.put(np.eye(3))
    device.xp.nonzero(x)
    s = cuda.Stream(non_blocking=True)
    cuda.Device().synchronize()
    with s:
        s.begin_capture()
        with pytest.raises(cuda.runtime.CUDARuntimeError):
            call(device.xp, x)
        with pytest.raises(cuda.runtime.CUDARuntimeError):
            s.end_capture()


def test_a_capture_refuses_cublas(device, cuda):
    x = device.put(np.eye(3))
    x @ x
    s = cuda.Stream(non_blocking=True)
    cuda.Device().synchronize()
    with s:
        s.begin_capture()
        with pytest.raises(NotImplementedError, match="calling cuBLAS API during stream capture"):
            x @ x
        s.end_capture()


def test_the_null_stream_does_not_capture(cuda):
    with pytest.raises(cuda.runtime.CUDARuntimeError):
        cuda.Stream.null.begin_capture()
