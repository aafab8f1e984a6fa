"""An index out of range on a device: found without a wait, raised with the operator's name where the host waits."""
from __future__ import annotations

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import errors, simulated
from tinytorch_gpu.backend.device import backend_for, device
from tinytorch_gpu.backend.kernel import use_kernels

F = tt.nn.functional


@pytest.fixture
def sim():
    return backend_for(device("sim"))


@pytest.fixture(params=[True, False], ids=["kernel", "formula"])
def found_by(request):
    with use_kernels(request.param):
        yield request.param


def x_of(*shape, where="sim"):
    return tt.ones(shape, device=where)


def i_of(*values, where="sim", dtype=tt.int64):
    return tt.tensor(list(values), dtype=dtype, device=where)


CASES = {
    "getitem": lambda where: x_of(4, 3, where=where)[i_of(0, 4, where=where)],
    "getitem negative": lambda where: x_of(4, 3, where=where)[:, i_of(-4, where=where)],
    "getitem two": lambda where: x_of(4, 3, where=where)[i_of(0, 1, where=where), i_of(0, 3, where=where)],
    "index_select": lambda where: tt.index_select(x_of(4, 3, where=where), 1, i_of(0, 3, where=where)),
    "index_add": lambda where: tt.index_add(x_of(4, where=where), 0, i_of(-1, where=where), x_of(1, where=where)),
    "gather": lambda where: tt.gather(x_of(4, where=where), 0, i_of(-1, where=where)),
    "take": lambda where: tt.take(x_of(4, 3, where=where), i_of(12, where=where)),
    "take_along_dim": lambda where: tt.take_along_dim(x_of(4, where=where), i_of(9, where=where), 0),
    "scatter": lambda where: tt.scatter(x_of(4, where=where), 0, i_of(4, where=where), x_of(1, where=where)),
    "scatter_add": lambda where: tt.scatter_add(x_of(4, where=where), 0, i_of(4, where=where), x_of(1, where=where)),
    "scatter_reduce": lambda where: tt.scatter_reduce(
        x_of(4, where=where), 0, i_of(4, where=where), x_of(1, where=where), "sum"),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_raise_at_the_next_host_read(case, found_by):
    with simulated.counters() as c:
        out = CASES[case]("sim")
    assert c.synchronizations == 0, "looking for a wrong index must not stop the host"
    name = case.split()[0]
    with pytest.raises(errors.IndexOutOfRange, match=rf"^\[{name}\] index -?\d+ is out of bounds for dimension \d"):
        out.sum().item()
    assert isinstance(out.sum().item(), float), "reported once"
    with pytest.raises((IndexError, RuntimeError), match=rf"^\[{name}\] index -?\d+ is out of bounds"):
        CASES[case]("cpu")


@pytest.mark.parametrize("read", [
    lambda t, sim: t.item(), lambda t, sim: t.cpu(), lambda t, sim: t.tolist(), lambda t, sim: t.numpy(force=True),
    lambda t, sim: float(t), lambda t, sim: bool(t), lambda t, sim: repr(t), lambda t, sim: tt.cuda.synchronize("sim"),
    lambda t, sim: sim.synchronize(), lambda t, sim: t.to("cpu"),
], ids=["item", "cpu", "tolist", "numpy", "float", "bool", "repr", "cuda.synchronize", "backend", "to"])
def test_every_wait_of_the_host_looks(read, sim):
    other = x_of(1)
    tt.take(x_of(4), i_of(7))
    with simulated.counters() as c, pytest.raises(IndexError, match=r"^\[take\] index 7"):
        read(other, sim)
    assert c.synchronizations >= 1
    read(other, sim)


def test_a_read_that_raises_counts_one_copy(sim):
    tt.take(x_of(4), i_of(7))
    y = x_of(1)
    with simulated.counters() as c, pytest.raises(IndexError):
        y.item()
    assert c.device_to_host == c.synchronizations == 1, "the word rides on the read"


def test_at_once_with_the_variable(monkeypatch, found_by):
    monkeypatch.setenv("TINYTORCH_SYNC", "1")
    with pytest.raises(IndexError, match=r"^\[gather\] index 5 is out of bounds for dimension 0 with size 4"):
        tt.gather(x_of(4), 0, i_of(5))
    assert tt.gather(x_of(4), 0, i_of(3)).item() == 1


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_report_does_not_depend_on_the_order_of_threads(sim, rng, found_by, dtype):
    host = rng.integers(0, 1000, 70_001).astype(dtype)
    wrong = rng.choice(host.size, 300, replace=False)
    host[wrong] = rng.integers(1000, 2**31 - 1, wrong.size)
    index = sim.from_host(host)
    errors.check_indices("first", index, 0, 2**31)
    errors.check_indices("table", index, 0, 1000)
    errors.check_indices("later", index, 0, 10)
    with pytest.raises(IndexError, match=rf"^\[table\] index {host[wrong].min()} is out of range: expected 0 <= "):
        sim.synchronize()


def test_values_around_the_edges(sim, found_by):
    for value, low, high, ignore in ((-100, 0, 5, -100), (4, 0, 5, None), (0, 0, 1, None), (-2**40, -2**41, 0, None),
                                     (2**40, 0, 2**40 + 1, None)):
        errors.check_indices("edge", sim.from_host(np.array([value])), low, high, ignore=ignore)
        errors.check_indices("edge", np.array([value]), low, high, ignore=ignore)
        sim.synchronize()
    for value, shown in ((-1, "-1"), (5, "5"), (-100, "-100"), (2**62, str(2**39 - 1)), (-2**62, str(-2**39))):
        errors.check_indices("edge", sim.from_host(np.array([0, value, 4])), 0, 5)
        with pytest.raises(IndexError, match=rf"^\[edge\] index {shown} is"):
            sim.synchronize()
        with pytest.raises(RuntimeError, match=rf"^\[edge\] index {value} is"):
            errors.check_indices("edge", np.array([0, value, 4]), 0, 5, raises=RuntimeError)
    errors.check_indices("empty", sim.from_host(np.zeros(0, np.int64)), 0, 0)
    errors.check_indices("strided", sim.from_host(np.arange(20))[::2], 0, 19)
    errors.check_indices("small", sim.from_host(np.arange(20, dtype=np.int8)), 0, 20)
    sim.synchronize()
    errors.check_indices("strided", sim.from_host(np.arange(20))[::-2], 0, 19)
    with pytest.raises(IndexError, match=r"^\[strided\] index 19"):
        sim.synchronize()


def test_classes_out_of_range():
    hot = tt.nn.functional.one_hot(i_of(0, 5), 3)
    with pytest.raises(IndexError, match=r"^\[one_hot\] class values must be smaller than num_classes, got 5"):
        hot.tolist()
    loss = F.cross_entropy(x_of(2, 3), i_of(1, 7))
    with pytest.raises(IndexError, match=r"^\[cross_entropy\] Target 7 is out of bounds"):
        loss.item()
    rows = F.embedding(i_of(1, 9), x_of(4, 3))
    with pytest.raises(IndexError, match=r"^\[embedding\] .* 9 "):
        rows.sum().item()


def test_a_text_of_its_own(sim):
    for index in (np.array([3]), sim.from_host(np.array([3]))):
        with pytest.raises(IndexError, match=r"^\[nll_loss\] Target 3 is out of bounds of 2"):
            errors.check_indices("nll_loss", index, 0, 2, text="Target {value} is out of bounds of {high}")
            sim.synchronize()


def test_nothing_is_read_before_something_was_recorded(sim, monkeypatch):
    monkeypatch.setattr(errors, "_words", {})
    monkeypatch.setattr("tinytorch_gpu.backend.gpu.recorded", {})
    monkeypatch.setattr(errors, "reading", None)  # would be called
    assert x_of(1).item() == 1
    sim.synchronize()


def test_more_kinds_of_calls_than_are_told_apart(sim, monkeypatch):
    monkeypatch.setattr(errors, "_codes", {})
    monkeypatch.setattr(errors, "_calls", [])
    monkeypatch.setattr(errors, "MANY", 3)
    index = sim.from_host(np.array([9]))
    for n in range(1, 6):
        errors.check_indices("many", index, 0, n)
        name = "many" if n < 3 else "indexing"
        with pytest.raises(IndexError, match=rf"^\[{name}\] (an )?index 9"):
            sim.synchronize()
