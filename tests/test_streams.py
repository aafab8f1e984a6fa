"""Streams of the simulated device: what is not waited for shows as wrong data, and what is waited for is right."""
from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from tinytorch_gpu.backend import simulated
from tinytorch_gpu.backend.device import backend_for, device
from tinytorch_gpu.backend.kernel import Kernel
from tinytorch_gpu.backend.simulated import streams as machinery

backend_for(device("sim"))
xp = simulated.xp
cuda = xp.cuda
put = simulated.asarray_from_host
runtime_error = cuda.runtime.CUDARuntimeError


@pytest.fixture(autouse=True)
def nothing_left():
    machinery._alive.clear()  # what the traceback of a failed test holds
    assert not machinery.active()
    yield
    machinery.local.stream = None
    if machinery.active():
        gc.collect()
    assert not machinery.active(), "the test left a stream"


def side():
    return cuda.Stream(non_blocking=True)


# what shows

def test_a_missing_wait_reads_unwritten_memory():
    x, s = put(np.arange(4.0)), side()
    with s:
        y = x * 2
        total = y.sum()
    assert np.isnan(y.get()).all() and np.isnan(total.item()), "read on the null stream, which waits for nobody here"
    s.synchronize()
    np.testing.assert_array_equal(y.get(), [0, 2, 4, 6])
    assert total.item() == 12


def test_a_missing_wait_between_streams_computes_with_old_values():
    a, b = side(), side()
    x = put(np.ones(3))
    cuda.Device().synchronize()
    with a:
        x += 1
    with b:
        y = x * 10
        assert (y.get() == 10).all(), "b did not wait for a"
        b.wait_event(a.record())
        assert ((x * 10).get() == 20).all()


def test_a_missing_wait_of_the_null_streams_work():
    s = side()
    x = put(np.ones(3)) + 1
    with s:
        assert np.isnan((x * 2).get()).all()
        s.wait_event(cuda.Stream.null.record())
        assert ((x * 2).get() == 4).all()


def test_overwriting_what_another_stream_still_reads():
    s = side()
    x = put(np.ones(3))
    cuda.Device().synchronize()
    with s:
        y = x + 1
    x[...] = 100
    assert x.sum().item() == 300
    s.synchronize()
    assert (y.get() == 101).all(), "the addition came after the overwriting"
    cuda.Stream.null.synchronize()


def test_memory_freed_while_another_stream_reads_it():
    s = side()
    x = put(np.ones(300))
    cuda.Device().synchronize()
    with s:
        y = x + 1
    del x
    z = put(np.full(300, 7.0))  # the same block: the null stream's arena
    cuda.Stream.null.synchronize()
    s.synchronize()
    assert (y.get() == 8).all()
    del y, z
    with s:  # kept until the stream has read it
        x = put(np.ones(300))
        y = x + 1
        del x
        z = put(np.full(300, 7.0))  # the same stream: in order
        assert (y.get() == 2).all() and (z.get() == 7).all()


def test_memory_freed_and_not_taken_again_is_overwritten():
    s = side()
    x = put(np.ones(300))
    cuda.Device().synchronize()
    with s:
        y = x + 1
    del x
    (put(np.ones(3)) + 1).get()
    s.synchronize()
    assert np.isnan(y.get()).all()


def test_blocks_go_to_the_streams_own_arena():
    s = side()
    with s:
        address = xp.empty(1000).data.ptr
        assert xp.empty(1000).data.ptr == address
    assert xp.empty(1000).data.ptr != address
    held = simulated.memory_stats()["held"]
    xp.get_default_memory_pool().free_all_blocks(s)
    assert simulated.memory_stats()["held"] == held - 8192
    with s:
        kept = xp.empty(1000)
    simulated.empty_cache()
    assert kept.size == 1000


def test_the_other_order_shows_what_the_usual_hides():
    """Late work is right by chance where the reader is asked for first; `others_first` runs the writer before it."""
    for order, expected in ((False, 2), (True, 11)):
        a, b = side(), side()
        x = put(np.ones(3))
        cuda.Device().synchronize()
        with a:
            x += 9
        with b:
            y = x + 1
        if order:
            with simulated.others_first():
                b.synchronize()
        else:
            b.synchronize()
        with b:
            assert (y.get() == expected).all()
        a.synchronize()


# what is ordered

def test_blocking_streams_and_the_null_stream_wait_for_each_other():
    s = cuda.Stream()
    x = put(np.arange(3.0)) + 1
    with s:
        y = x * 2
    z = y + 1
    np.testing.assert_array_equal(z.get(), [3, 5, 7])
    with s:
        w = z * 2
    np.testing.assert_array_equal(w.get(), [6, 10, 14])


@pytest.mark.parametrize("wait", [
    lambda s, e: s.synchronize(), lambda s, e: e.synchronize(), lambda s, e: cuda.Device().synchronize(),
    lambda s, e: cuda.Stream.null.wait_event(e), lambda s, e: simulated.synchronize(),
    lambda s, e: [None for _ in iter(lambda: s.done, True)], lambda s, e: [None for _ in iter(lambda: e.done, True)],
    lambda s, e: cuda.runtime.deviceSynchronize(),
])
def test_every_wait_orders(wait):
    x, s = put(np.arange(4.0)), side()
    cuda.Device().synchronize()
    with s:
        y = xp.exp(x) - 1
        e = s.record()
    wait(s, e)
    np.testing.assert_array_equal(y.get(), np.exp(np.arange(4.0)) - 1)


def test_an_event_orders_only_what_came_before_it():
    s = side()
    with s:
        x = put(np.ones(2))
        first = x + 1
        e = s.record()
        second = x + 2
    cuda.Stream.null.wait_event(e)
    assert (first.get() == 2).all() and np.isnan(second.get()).all()
    s.synchronize()


def test_waits_through_a_third_stream():
    a, b, c = side(), side(), side()
    with a:
        x = put(np.ones(2)) + 1
    b.wait_event(a.record())
    with b:
        y = x * 3
    c.wait_event(b.record())
    with c:
        assert (y.get() == 6).all()


def test_host_reads_on_the_stream_and_by_argument():
    s = side()
    with s:
        x = put(np.arange(3.0))
        y = x[x > 0]  # a mask waits
        assert y.shape == (2,) and y.tolist() == [1, 2]
        assert int(xp.count_nonzero(x)) == 2 and len(xp.unique(x)) == 3 and xp.nonzero(x)[0].tolist() == [1, 2]
        z = x + 1
    assert (z.get(stream=s) == [1, 2, 3]).all()
    x.set(np.zeros(3), stream=s)
    assert (x.get(s) == 0).all()


def test_host_memory_is_read_at_the_call():
    s, host = side(), np.ones(3)
    with s:
        x = put(host)
        y = xp.array([1.0, 2.0])
        host[...] = 5
        assert (x.get() == 1).all() and y.tolist() == [1, 2]


def test_functions_of_every_kind_are_delayed_and_right(rng):
    """Each writes, or makes a result in another way; beside NumPy."""
    host = rng.standard_normal((4, 5)).astype(np.float32)
    programs = {
        "operators": lambda m, a: (a * 2 - a / 3) ** 2, "matmul": lambda m, a: a @ a.T, "setitem": _written,
        "out": lambda m, a: m.add(a, 1, out=a), "reduction": lambda m, a: a.sum(0) + m.max(a, axis=0),
        "index": lambda m, a: a[m.asarray([2, 0])], "put_along_axis": _put_along, "fill": _filled,
        "in place": _in_place, "sort": _sorted, "concatenate": lambda m, a: m.concatenate([a, a[:2] + 1]),
        "where": lambda m, a: m.where(a > 0, a, 0), "reshape": lambda m, a: a.T.reshape(-1) + 1,
        "einsum": lambda m, a: m.einsum("ij,kj->ik", a, a), "cumsum": lambda m, a: m.cumsum(a, axis=1),
        "linalg": lambda m, a: m.linalg.inv(a @ a.T + m.eye(4, dtype=a.dtype)), "arange": _ranged,
        "views": lambda m, a: a.T[1:].swapaxes(0, 1).copy() + m.zeros_like(a[:, 1:]), "astype": lambda m, a:
        a.astype(np.float64), "tuple": lambda m, a: m.divmod(a, 2)[1], "copyto": _copied, "real": lambda m, a: a.imag,
    }
    s = side()
    for name, program in programs.items():
        with s:
            x = put(host)
            got = program(xp, x)
            late = machinery.current().items
            assert late, f"{name} ran at once"
        stale = got.get()
        with s:
            np.testing.assert_allclose(got.get(), program(np, host.copy()), rtol=2e-4, atol=1e-5, err_msg=name)
        assert not np.array_equal(stale, got.get(stream=s)), f"{name} was not delayed"


def _written(m, a):
    a[1:3] = a[0]
    a[:, 0] = 7
    return a


def _put_along(m, a):
    m.put_along_axis(a, m.argmax(a, axis=1)[:, None], m.zeros((4, 1), a.dtype), 1)
    return a


def _filled(m, a):
    a[2].fill(3)
    return a


def _in_place(m, a):
    a += 1
    a *= a
    return a


def _sorted(m, a):
    a.sort(axis=0)
    return a


def _ranged(m, a):
    return m.arange(20, dtype=a.dtype).reshape(4, 5) * a


def _copied(m, a):
    b = m.empty_like(a)
    m.copyto(b, a)
    return b


def test_kernels_are_delayed():
    from tinytorch_gpu.backend.simulated import emulator

    if reason := emulator.unavailable():
        pytest.skip(reason)
    double = Kernel("__global__ void twice(const float* x, float* y, long long n) { const long long i = threadIdx.x;"
                    " if (i < n) y[i] = 2 * x[i]; }")
    s = side()
    with s:
        x = put(np.arange(100, dtype=np.float32))
        y = xp.empty(100, np.float32)
        double((1,), (128,), x, y, 100)
        z = y + 1
        del y
    assert np.isnan(z.get()).all()
    with s:
        np.testing.assert_array_equal(z.get(), np.arange(100) * 2 + 1)


def test_errors_of_the_call_come_at_the_call():
    s = side()
    with s:
        x = put(np.ones((2, 3)))
        for wrong, kind in ((lambda: x + xp.ones((4, 4)), ValueError), (lambda: x.reshape(7), ValueError),
                            (lambda: xp.sum("a"), TypeError), (lambda: x[5], IndexError), (lambda: x @ x, ValueError)):
            with pytest.raises(kind):
                wrong()
        assert (x.get() == 1).all()


def test_values_that_are_not_there_yet_raise_nothing():
    s = side()
    with s:
        a = put(np.array([2, 3]))
        b = put(np.array([2, 2]))
        assert xp.power(a, b).tolist() == [4, 9], "tried with -1 in unwritten memory, which NumPy refuses"


def test_counters_count_each_thing_once():
    s = side()
    host = np.ones(3)
    with simulated.counters() as c, s:
        x = put(host)
        y = (x + 1) * x
        assert (c.host_to_device, c.allocations, c.synchronizations, c.device_to_host) == (1, 3, 0, 0)
        y.get()
        assert (c.host_to_device, c.allocations, c.synchronizations, c.device_to_host) == (1, 3, 1, 1)
        s.synchronize()
        cuda.Event().synchronize()
        assert c.synchronizations == 3


# names and small print

def test_names_are_cupys():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: there is nothing to compare with")
    for mine, theirs in ((cuda.Stream, cupy.cuda.Stream), (cuda.Event, cupy.cuda.Event),
                         (cuda.ExternalStream, cupy.cuda.ExternalStream), (cuda.Graph, cupy.cuda.Graph)):
        for name in (n for n in vars(mine) if not n.startswith("_") and n not in ("queue",)):
            if name not in ("upto", "time", "capture"):
                assert hasattr(theirs, name) or name in ("ptr", "device_id", "non_blocking", "priority"), name


def test_current_streams_and_contexts():
    null = cuda.get_current_stream()
    assert null is cuda.Stream.null and null.ptr == 0 and cuda.Stream(null=True) == null and not null.is_non_blocking
    a, b = side(), cuda.Stream()
    assert a != b and a.is_non_blocking and not b.is_non_blocking and len({a, b, a}) == 2
    with a:
        assert cuda.get_current_stream() is a
        with b, a:
            assert cuda.get_current_stream() is a
        seen = []
        thread = threading.Thread(target=lambda: seen.append(cuda.get_current_stream()))
        thread.start()
        thread.join()
        assert seen == [null], "each thread has its own"
    assert cuda.get_current_stream() is null
    assert b.use() is b and cuda.get_current_stream() is b
    null.use()
    assert cuda.ExternalStream(a.ptr) == a
    with pytest.raises(runtime_error, match="invalid resource handle"):
        cuda.ExternalStream(12345)
    with pytest.raises(NotImplementedError):
        cuda.Stream(ptds=True)
    assert simulated.xp.ones(1).__cuda_array_interface__["stream"] == 1


def test_events_time_and_state():
    s = side()
    start, end = cuda.Event(), cuda.Event()
    with s:
        start.record()
        x = put(np.ones(1000)) + 1
        end.record()
    assert not end.done
    with pytest.raises(runtime_error, match="not ready"):
        cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert end.done and start.done and cuda.Event().done and x.get(s)[0] == 2
    assert 0 <= cuda.get_elapsed_time(start, end) < 10_000
    with pytest.raises(runtime_error, match="invalid resource handle"):
        cuda.get_elapsed_time(start, cuda.Event())


def test_host_functions_come_in_order():
    s, seen = side(), []
    with s:
        s.launch_host_func(seen.append, 1)
        s.add_callback(lambda stream, error, arg: seen.append((stream is s, error, arg)), 2)
    assert seen == []
    s.synchronize()
    assert seen == [1, (True, 0, 2)]


def test_work_of_a_stream_that_is_gone_still_runs():
    s, t = side(), side()
    with s:
        x = put(np.ones(3)) + 1
    e = s.record()
    del s
    gc.collect()
    cuda.Stream.null.wait_event(e)
    assert (x.get() == 2).all()
    with t:
        y = x * 2
    del t
    gc.collect()
    assert (y.get() == 4).all(), "without another stream nothing is delayed"


def test_threads_with_streams_of_their_own(rng):
    hosts = [rng.standard_normal(50) for _ in range(4)]
    results = [None] * 4

    def work(i):
        s = side()
        with s:
            x = put(hosts[i])
            for _ in range(30):
                x = x * 0.5 + xp.sin(x)
            results[i] = x.get()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for host, got in zip(hosts, results, strict=True):
        for _ in range(30):
            host = host * 0.5 + np.sin(host)
        np.testing.assert_allclose(got, host)


def test_programs_without_streams_call_the_functions_themselves():
    plain = xp.sum, vars(simulated.ndarray)["__add__"]
    s = side()
    assert xp.sum is not plain[0]
    del s
    gc.collect()
    assert not machinery.active()
    assert (xp.sum, vars(simulated.ndarray)["__add__"]) == plain
