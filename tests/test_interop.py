"""DLPack both ways and __cuda_array_interface__: memory is shared, lives long enough and is given back."""

from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import interop  # noqa: F401  (attaches Tensor.__dlpack__)
from tinytorch_gpu.backend import dtypes

NAMES = [d.name for d in dtypes.ALL]


def bits(x):
    return np.asarray(x).tobytes()


def theirs_to_ours(torch, x):
    return x.view(torch.int16).numpy().tobytes() if x.dtype == torch.bfloat16 else x.resolve_conj().numpy().tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_to_torch(torch, rng, name):
    x = tt.tensor(
        np.asarray(rng.normal(size=(4, 3)) > 0 if name == "bool" else abs(9 * rng.normal(size=(4, 3)))).astype(
            dtypes.from_any(name).np
        ),
        device="cpu",
    )
    for view in (x, x.t(), x[1:, ::2], x[0, 0], x[:0], x.expand(2, 4, 3)):
        there = torch.from_dlpack(view)
        assert there.dtype == getattr(torch, name) and tuple(there.shape) == view.shape
        assert theirs_to_ours(torch, there.contiguous()) == np.ascontiguousarray(view.numpy()).tobytes()
        if view.numel() > 1:
            assert there.stride() == view.stride()
    there = torch.from_dlpack(x)
    there.zero_()
    assert not np.asarray(x._array.view(np.uint8)).any()
    x.fill_(1)
    assert bool((there == 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_from_torch(torch, name):
    there = (torch.rand(4, 3) * 9).to(getattr(torch, name))
    for view in (there, there.t(), there[1:, ::2], there[0, 0], there[:0], there.expand(2, 4, 3)):
        x = tt.from_dlpack(view)
        assert x.dtype.name == name and x.shape == tuple(view.shape) and x.device.type == "cpu"
        assert np.ascontiguousarray(x.numpy()).tobytes() == theirs_to_ours(torch, view.contiguous())
    x = tt.from_dlpack(there)
    there.zero_()
    assert not x._array.view(np.uint8).any()
    x.fill_(1)
    assert bool((there == 1).all())
    capsule = torch.utils.dlpack.to_dlpack(there)
    assert tt.from_dlpack(capsule).dtype.name == name
    with pytest.raises(RuntimeError, match="was read already"):
        tt.from_dlpack(capsule)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_without_other_libraries(name):
    x = tt.ones(3, 4, device="cpu").to(dtypes.from_any(name)).t()
    y = tt.from_dlpack(x)
    assert y.dtype is x.dtype and y.stride() == x.stride() and y.data_ptr() == x.data_ptr()
    assert bits(tt.from_dlpack(x, copy=True)._array) == bits(x._array)
    assert tt.from_dlpack(x, copy=True)._array.__array_interface__["data"] != x._array.__array_interface__["data"]


def test_numpy(rng):
    a = rng.normal(size=(3, 4))
    assert tt.from_dlpack(a)._array.__array_interface__["data"] == a.__array_interface__["data"]
    assert np.from_dlpack(tt.from_dlpack(a)).tolist() == a.tolist()


def test_read_only_stays_read_only(rng):
    a = rng.normal(size=3)
    a.flags.writeable = False
    x = tt.from_dlpack(a)
    with pytest.raises(ValueError, match="read-only"):
        x.fill_(0)
    y = np.from_dlpack(tt.from_numpy(a))
    assert not y.flags.writeable
    with pytest.raises(BufferError):
        tt.from_numpy(a).__dlpack__()  # a reader of DLPack before 1.0 would not know
    b = a.astype(ml_dtypes.bfloat16)
    b.flags.writeable = False
    z = tt.from_dlpack(tt.from_numpy(b))
    assert z.dtype is tt.bfloat16 and not z._array.flags.writeable


def test_negative_strides_are_copied(torch):
    x = tt.from_numpy(np.arange(6.0)[::-1])
    assert torch.from_dlpack(x).tolist() == x.tolist()
    with pytest.raises(BufferError, match=r"^\[dlpack\] negative strides need a copy"):
        x.__dlpack__(copy=False)


class Memory:
    """The owner of an array's memory, whose end can be seen."""

    def __init__(self, array):
        self.array, self.__array_interface__ = array, array.__array_interface__


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("consumed", [True, False])
def test_memory_lives_as_long_as_the_capsule_or_its_reader(dtype, consumed):
    for version in (None, (1, 0)):
        owner = Memory(np.ones(1000, dtype).view(f"u{np.dtype(dtype).itemsize}"))
        alive = weakref.ref(owner)
        x = tt.from_numpy(np.asarray(owner).view(dtype))
        capsule = x.__dlpack__(max_version=version)
        del x, owner
        gc.collect()
        assert alive() is not None
        if consumed:
            y = tt.from_dlpack(capsule)
            del capsule
            assert alive() is not None and y.sum().item() == 1000
            part = y[10:20]
            del y
            assert alive() is not None and part.sum().item() == 10
            del part
        else:
            del capsule
        gc.collect()
        assert alive() is None


def test_many_times_without_growth(torch):
    import tracemalloc

    def loop(n):
        for _ in range(n):
            x = tt.from_dlpack(torch.from_dlpack(tt.ones(10_000, dtype=tt.bfloat16, device="cpu")))
            x.__dlpack__()
        return x

    loop(50)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        x = loop(500)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 60_000, after - before  # one tensor is alive, 500 would be 10 MB
    assert x.sum().item() == 9984  # 10,000 in bfloat16


def test_refusals(torch):
    with pytest.raises(BufferError, match=r"^\[dlpack\] can't export tensors that require gradient"):
        tt.ones(2, requires_grad=True, device="cpu").__dlpack__()
    sim = tt.ones(2, device="sim")
    for use in (sim.__dlpack__, sim.__dlpack_device__):
        with pytest.raises(BufferError, match=r"^\[dlpack\] other libraries cannot see the simulated device"):
            use()
    with pytest.raises(TypeError, match=r"^\[from_dlpack\] expected an array with __dlpack__"):
        tt.from_dlpack([1, 2])
    with pytest.raises(TypeError, match="uint16"):
        tt.from_dlpack(np.ones(2, np.uint16))
    with pytest.raises(BufferError, match=r"needs a copy, but copy=False"):
        tt.from_dlpack(np.ones(2), device="sim", copy=False)
    assert tt.from_dlpack(np.ones(2), device="sim").device.type == "sim"

    class Elsewhere:
        def __dlpack_device__(self):
            return 10, 0

        def __dlpack__(self, **options):
            raise AssertionError

    with pytest.raises(BufferError, match="device type 10 is not supported"):
        tt.from_dlpack(Elsewhere())
    x = tt.ones(2, device="cpu")
    with pytest.raises(BufferError):
        x.__dlpack__(dl_device=(2, 0))
    with pytest.raises(RuntimeError):
        x.__dlpack__(stream=1)


def test_an_exporter_before_dlpack_1(torch):
    class Old:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

        def __dlpack__(self, stream=None):
            return self.tensor.__dlpack__(stream=stream)

    for dtype in (tt.float32, tt.bfloat16):
        assert tt.from_dlpack(Old(tt.ones(3, dtype=dtype, device="cpu"))).tolist() == [1, 1, 1]


def test_cuda_array_interface_is_for_cuda_tensors_only():
    for where in ("cpu", "sim"):
        assert not hasattr(tt.ones(2, device=where), "__cuda_array_interface__")


@pytest.mark.gpu
def test_on_a_gpu(rng):
    import cupy

    a = cupy.asarray(rng.normal(size=(3, 4)))
    x = tt.from_dlpack(a)
    assert x.device.type == "cuda" and x.data_ptr() == a.data.ptr
    assert cupy.from_dlpack(x).data.ptr == a.data.ptr and cupy.asarray(x).data.ptr == a.data.ptr
    assert tt.Tensor(a).data_ptr() == a.data.ptr and tt.as_tensor(a).data_ptr() == a.data.ptr
    y = tt.from_dlpack(x.to(tt.bfloat16))
    assert y.dtype is tt.bfloat16 and y.device.type == "cuda"
    with pytest.raises(RuntimeError, match="requires grad"):
        x.detach().requires_grad_().__cuda_array_interface__  # noqa: B018
