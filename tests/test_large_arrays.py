"""More than 2^31 elements: over memory that the operating system gives only where it is touched, so the tests touch
little of it. Positions, sizes and launches are what can be wrong there."""
from __future__ import annotations

import math

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import errors, kernel_elementwise, kernel_rows, simulated
from tinytorch_gpu.backend.device import backend_for, device
from tinytorch_gpu.backend.kernel import LIBRARY, Kernel

N = 2**31 + 64


@pytest.fixture(scope="module")
def large():
    """int8 zeros, 2 GiB of addresses."""
    try:
        return np.zeros(N, np.int8)
    except MemoryError:
        pytest.skip("the operating system gives no 2 GiB of addresses")


def test_sizes_views_and_elements(large):
    x = tt.from_numpy(large)
    assert x.numel() == x.size(0) == x.nbytes == N and x.shape == (N,) and x.stride() == (1,)
    x[-1], x[2**31 + 3] = 5, 7
    assert (x[-1].item(), x[N - 1].item(), x[-61].item(), x[2**31 + 4].item()) == (5, 5, 7, 0)
    tail = x[2**31:]
    assert tail.shape == (64,) and tail.storage_offset() == 2**31 and tail.sum().item() == 12
    assert tail.argmax().item() == 3 and x.narrow(0, 2**31, 64).tolist()[3] == 7
    assert x[:: 2**20].numel() == 2049 and x.view(2, -1)[1, -1].item() == 5
    assert x.view(-1, 64).t()[63, -1].item() == 5 and x.unfold(0, 32, 2**30).shape == (3, 32)
    tail.fill_(1)
    assert x[-64:].sum().item() == 64 and x[2**31 - 1].item() == 0
    tail.zero_()
    assert "0" in repr(x)


def test_index_tensors(large):
    x = tt.from_numpy(large)
    x[-1], x[2**31 + 3] = 5, 7
    index = tt.tensor([N - 1, 2**31 + 3, -1, 0], device="cpu")
    assert x[index].tolist() == tt.take(x, index).tolist() == [5, 7, 5, 0]
    assert x.index_select(0, index[:2]).tolist() == tt.gather(x, 0, index[:2]).tolist() == [5, 7]
    assert x[tt.tensor([2**31 - 1, -1], device="cpu", dtype=tt.int32)].tolist() == [0, 5]
    for wrong in (N, -N - 1):
        at = tt.tensor([wrong], device="cpu")
        for use in (lambda: x[wrong], lambda: x[at], lambda: tt.take(x, at), lambda: tt.gather(x, 0, at),
                    lambda: x.index_select(0, at)):
            with pytest.raises((IndexError, RuntimeError), match=rf"{wrong} is out of bounds .* with size {N}"):
                use()
    x[-64:] = 0


def test_views_without_memory():
    e = tt.ones(1).expand(N)
    assert e.numel() == N and e[-1].item() == 1 and e[2**31:].sum().item() == 64
    square = tt.zeros(1).expand(2**16, 2**16)
    assert square.numel() == 2**32 and square[-1, -1].item() == 0 and square.diagonal().shape == (2**16,)
    with pytest.raises(RuntimeError):
        e.view(2**16, 2**16)


# the device

@pytest.fixture
def sim(monkeypatch):
    """The simulated device, with unwritten memory that is not touched."""
    from tinytorch_gpu.backend.simulated import array

    backend = backend_for(device("sim"))

    def empty(shape, dtype=float, order="C"):
        return array.empty_raw(array.normal_shape(shape), array.checked_dtype(dtype))

    monkeypatch.setattr(simulated.xp, "empty", empty)
    yield backend
    simulated.empty_cache()


def lazily(sim, shape, dtype):
    try:
        return sim.xp.empty(shape, dtype)
    except MemoryError:
        pytest.skip("the operating system gives no such piece of addresses")


@pytest.fixture
def launches(monkeypatch):
    """Every launch is checked as always (count, dtypes, numbers that do not fit, limits) and then left out."""
    seen = []

    def call(self, grid, block, *args, shared=0):
        function, converters = self._check(grid, block, shared, args)
        values = list(args)
        for i, convert in converters:
            values[i] = convert(values[i])
        seen.append((self, grid, block, dict(zip([p.name for p in self.signature.parameters], values, strict=True))))

    from tinytorch_gpu.backend.simulated import emulator

    if reason := emulator.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(Kernel, "__call__", call)
    return seen


def test_elements_on_the_simulated_device(sim):
    x = lazily(sim, (N,), np.int8)
    x[2**31:] = 0
    x[-1] = 3
    t = tt.Tensor(x)
    assert t.numel() == N and t[-1].item() == 3 and t[2**31:].sum().item() == 3
    assert t[tt.tensor([N - 1, -2]).to("sim")].tolist() == [3, 0]
    t[tt.tensor([N]).to("sim")]
    with pytest.raises(IndexError, match=rf"index {N} is out of bounds for dimension 0 with size {N}"):
        t[-1].item()


def test_elementwise_launches_reach_the_last_element(sim, launches):
    x = lazily(sim, (2**31 + 8,), np.float16)
    assert kernel_elementwise.activation(x, kernel_elementwise.SILU) is not None
    ((_, grid, block, args),) = launches
    assert int(args["n"]) == 2**31 + 8
    assert math.prod(grid) * math.prod(block) * 8 >= 2**31 + 8 and grid[0] < 2**31


@pytest.mark.parametrize("rows, columns", [(2**24 + 1, 128), (3, 2**30)])
def test_row_launches_reach_the_last_row(sim, launches, rows, columns):
    x = lazily(sim, (rows, columns), np.float16)
    assert kernel_rows.softmax(x) is not None
    (_, grid, block, args) = launches[-1]
    assert int(args["rows"]) == rows and int(args["columns"]) == columns
    assert grid[0] * (block[1] if len(block) > 1 else 1) >= rows


def test_index_checks_pass_64_bits(sim, launches):
    index = lazily(sim, (2**31 + 8,), np.int32)
    errors.check_indices("large", index, 0, 2**40)
    ((_, grid, block, args),) = launches
    assert int(args["n"]) == 2**31 + 8 and int(args["high"]) == 2**40 and grid[0] <= errors.BLOCKS


def test_no_kernel_counts_elements_in_32_bits():
    """Sizes and positions are 64-bit in every kernel; 32 bits are for kinds, numbers of tensors, steps."""
    sizes = {"n", "size", "rows", "columns", "count", "length", "total", "elements", "width", "low", "high", "chunk"}
    narrow = [f"{k.signature.name}({p.name})" for k in LIBRARY for p in k.signature.parameters
              if not p.pointer and not isinstance(p.kind, str) and p.kind.kind in "iu" and p.kind.itemsize < 8
              and p.name in sizes]
    assert not narrow, narrow
    counted = [k for k in LIBRARY if any(p.name in sizes for p in k.signature.parameters)]
    assert len(counted) > 10
