"""Brackets against PyTorch: random indices read and written, their gradients, views, errors; segmented sums."""
from __future__ import annotations

import math

import numpy as np
import pytest
from case import host, tensor

import tinytorch_gpu as tt
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.backend.device import backend_for, resolve
from tinytorch_gpu.backend.device import device as device_class
from tinytorch_gpu.ops import segments


def random_slice(rng, n):
    start, stop = (None if rng.random() < 0.4 else int(rng.integers(-n - 1, n + 2)) for _ in range(2))
    return slice(start, stop, None if rng.random() < 0.5 else int(rng.integers(1, 4)))


def random_index(rng, shape, unique=False):
    """An index as a function of `wrap`, which makes tensors of either package from host arrays; and its kinds."""
    items, axis, ellipsis = [], 0, False
    common = tuple(rng.integers(1, 4, rng.integers(0, 3)))
    while axis < len(shape):
        n, kind = shape[axis], rng.integers(0, 9)
        if kind == 0 and n:
            items.append(int(rng.integers(-n, n)))
        elif kind <= 2:
            items.append(random_slice(rng, n))
        elif kind == 3:
            items.append(None)
            continue
        elif kind == 4 and not ellipsis:
            items.append(Ellipsis)
            ellipsis = True
            axis += int(rng.integers(0, len(shape) - axis + 1))
            remaining = len(shape) - axis
            # what an ellipsis skips is decided by what follows
            items.extend(slice(None) for _ in range(remaining))
            break
        elif kind == 5 and n and not unique:
            items.append(("tensor", rng.integers(-n, n, common)))
        elif kind == 6 and n and not unique:
            items.append(rng.integers(-n, n, 1).tolist())
        elif kind == 7:
            items.append(("tensor", rng.random(n) < 0.5) if not unique else slice(None))
        elif kind == 8 and rng.random() < 0.4 and n and not unique:
            items.append(("tensor", np.asarray(rng.integers(-n, n))))
        else:
            break
        axis += 1
    return items


def build(items, wrap):
    out = tuple(wrap(v[1]) if isinstance(v, tuple) else v for v in items)
    return out[0] if len(out) == 1 else out


def outcome(function):
    try:
        return function(), None
    except (IndexError, ValueError, RuntimeError, TypeError) as e:
        return None, e


def test_random_indices_read(torch, rng):
    advanced = 0
    for trial in range(400):
        shape = tuple(rng.integers(0 if trial % 10 == 0 else 1, 5, rng.integers(1, 5)))
        array = rng.standard_normal(shape)
        items = random_index(rng, shape)
        advanced += any(isinstance(v, (tuple, list)) for v in items)
        x, y = tensor(array, True), torch.from_numpy(array).requires_grad_()
        expected, error = outcome(lambda: y[build(items, torch.from_numpy)])
        actual, mine = outcome(lambda: x[build(items, tensor)])
        assert (error is None) == (mine is None), f"{shape}{items}: PyTorch {error!r}, here {mine!r}"
        if error is not None:
            assert type(error) is type(mine), f"{shape}{items}: PyTorch {error!r}, here {mine!r}"
            continue
        assert actual.shape == tuple(expected.shape), f"{shape}{items}"
        np.testing.assert_array_equal(host(actual), host(expected), f"{shape}{items}")
        given = rng.standard_normal(actual.shape)
        (g,) = engine.grad([actual], [x], [tensor(given)], create_graph=True)
        (e,) = torch.autograd.grad([expected], [y], [torch.from_numpy(np.asarray(given))], create_graph=True)
        # sums of at most a few dozen float64 in another order
        np.testing.assert_allclose(host(g), host(e), rtol=1e-13, atol=1e-13, err_msg=f"{shape}{items}")
    assert advanced > 100


def test_random_indices_written(torch, rng):
    for trial in range(300):
        shape = tuple(rng.integers(1, 5, rng.integers(1, 4)))
        array = rng.standard_normal(shape)
        items = random_index(rng, shape, unique=trial % 3 > 0)
        try:
            region = np.empty(shape)[build(items, np.asarray)].shape if trial % 2 else ()
        except IndexError:
            region = ()
        if any(isinstance(v, (tuple, list)) for v in items) and trial % 3 == 0:
            region = ()  # one value: which of several at a repeated position stays is open
        size = tuple(1 if rng.random() < 0.3 else n for n in region)
        value = rng.standard_normal(size)
        x, y = tensor(array, True), torch.from_numpy(array).requires_grad_()
        v, w = tensor(value, True), torch.from_numpy(np.asarray(value)).requires_grad_()
        ours, theirs = x * 1, y * 1
        _, error = outcome(lambda: theirs.__setitem__(build(items, torch.from_numpy), w))
        _, mine = outcome(lambda: ours.__setitem__(build(items, tensor), v))
        assert (error is None) == (mine is None), f"{shape}{items} = {size}: PyTorch {error!r}, here {mine!r}"
        if error is not None:
            continue
        np.testing.assert_array_equal(host(ours), host(theirs), f"{shape}{items} = {size}")
        given = rng.standard_normal(shape)
        found = engine.grad([ours], [x, v], [tensor(given)])
        expected = torch.autograd.grad([theirs], [y, w], [torch.from_numpy(given)])
        for g, e in zip(found, expected):
            np.testing.assert_allclose(host(g), host(e), rtol=1e-13, atol=1e-13, err_msg=f"{shape}{items} = {size}")


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("index, error", [
    (3, IndexError), (-4, IndexError), ((0, 0, 0), IndexError), (slice(None, None, -1), ValueError),
    ([0, 5], IndexError), (([0, 1], [0, 1, 2]), IndexError),
    (1.5, (IndexError, TypeError)), ("a", (IndexError, TypeError)),
    ([True, False], IndexError),
])
def test_bad_indices(index, error, write, torch):
    for t in (torch, tt):
        x = t.zeros(3, 2, device="cpu")
        with pytest.raises(error):
            x.__setitem__(index, 1.0) if write else x[index]


def test_messages():
    x = tt.zeros(3, 2, device="cpu")
    with pytest.raises(IndexError, match=r"^\[getitem\] index 5 is out of bounds for dimension 0 with size 3$"):
        x[5]
    with pytest.raises(IndexError, match=r"^\[getitem\] index -7 is out of bounds for dimension 1 with size 2$"):
        x[:, tt.tensor([0, -7], device="cpu")]
    with pytest.raises(IndexError, match="mask"):
        x[tt.tensor([True, False], device="cpu")]
    with pytest.raises(RuntimeError, match=r"^\[gather\] index 2 is out of bounds for dimension 1 with size 2$"):
        x.gather(1, tt.tensor([[2]], device="cpu"))
    for stricter in ((..., ...), [0.5]):  # PyTorch takes the first as x[...] and cuts the second down to [0]
        with pytest.raises(IndexError):
            x[stricter]
    with pytest.raises(RuntimeError, match="leaf"):
        tt.zeros(3, requires_grad=True)[0] = 1.0
    with pytest.raises(RuntimeError, match="broadcast"):
        x[0] = tt.zeros(3, device="cpu")


def test_views_and_copies():
    x = tt.arange(12.0).reshape(3, 4)
    for v in (x[1], x[1, 2], x[..., ::2], x[None], x.t(), x.view(4, 3), x.diagonal(), x.split(2, 1)[1], x.unbind(1)[0],
              x.narrow(1, 1, 2), x.unsqueeze(0), x.flatten(), x[tt.tensor(1)]):
        assert v._is_view()
        before = x.sum().item()
        v += 1
        assert x.sum().item() == before + v.numel()
    for c in (x[[0, 1]], x[x > 3], x.flip(0), x.index_select(0, tt.tensor([0])), x.repeat(1, 1), x.tril()):
        before = x.tolist()
        c += 1
        assert x.tolist() == before


def test_views_in_place_pass_gradients_on(torch, rng):
    array = rng.standard_normal((3, 4))

    def program(t, x, w):
        y = x * 2
        rows = y[1:]
        rows.mul_(w)
        y[0, 1] = x[2, 3] * 3
        part = y.t()[2]
        part.copy_(w[0, :3] * 5)
        y.view(2, 6)[1, ::2] = 7.0
        first, second = y[:, :2], y.diagonal()
        second.zero_()
        y[[0, 2], [3, 1]] = w[0, 0]
        return (y * y).sum() + first.sum() + rows.sum()

    x, w = tensor(array, True), tensor(array[:2] + 1, True)
    y, v = torch.from_numpy(array).requires_grad_(), torch.from_numpy(array[:2] + 1).requires_grad_()
    ours, theirs = program(tt, x, w), program(torch, y, v)
    assert math.isclose(ours.item(), theirs.item(), rel_tol=1e-13)
    for g, e in zip(engine.grad([ours], [x, w]), torch.autograd.grad(theirs, [y, v])):
        np.testing.assert_allclose(host(g), host(e), rtol=1e-13, atol=1e-13)


def test_writing_without_recording():
    p = tt.zeros(3, requires_grad=True)
    with tt.no_grad():
        p[1] = 2.0
        p[[0, 2]] = tt.tensor([1.0, 3.0])
        p.masked_fill_(p > 2, 5.0)
    assert p.tolist() == [1, 2, 5] and p.requires_grad and p.is_leaf


# segmented sums

@pytest.mark.parametrize("where", ["cpu", "sim"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64", "int8", "bool", "float16", "bfloat16"])
@pytest.mark.parametrize("m, d, n", [(0, 3, 4), (1, 1, 1), (50, 3, 7), (2000, 5, 30), (300, 1, 1000), (10, 0, 3),
                                     (64, 64, 2)])
def test_segment_sum(m, d, n, dtype, where, rng):
    backend = backend_for(device_class(where))
    dtype = getattr(tt, dtype)
    rows = rng.integers(-3, 4, (m, d)) if not dtype.is_floating_point else rng.standard_normal((m, d))
    rows = np.asarray(rows).astype(dtype.np)
    index = rng.integers(0, n, m)
    wide = np.complex128 if dtype.is_complex else np.float64
    expected = np.zeros((n, d), wide)
    np.add.at(expected, index, rows.astype(wide))
    given, places = backend.from_host(rows), backend.from_host(index)
    found = [backend.to_host(segments.segment_sum(given, places, n)) for _ in range(2)]
    assert found[0].dtype == rows.dtype and found[0].tobytes() == found[1].tobytes()
    if dtype is tt.bool:
        np.testing.assert_array_equal(found[0], expected != 0) if not rows.astype(int).min(initial=0) < 0 else None
    elif dtype.category < 2:
        np.testing.assert_array_equal(found[0], expected.astype(rows.dtype))
    else:
        # float32 sums of up to m values, rounded once to the dtype
        eps = {"float64": 2e-16, "float32": 1.2e-7, "complex64": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}[dtype.name]
        scale = np.abs(expected).max(initial=1)
        assert np.abs(found[0].astype(wide) - expected).max(initial=0) <= (eps + 1.2e-7 * m**0.5 * 4) * scale


def test_half_gradients_accumulate_in_float32():
    # 4096 ones in float16 stop at 2048
    for d in (tt.float16, tt.bfloat16):
        x = tt.ones(2, dtype=d, requires_grad=True)
        x[tt.zeros(4096, dtype=tt.int64)].sum().backward()
        assert x.grad.tolist() == [4096, 0]
        y = tt.ones(1, 2, dtype=d, requires_grad=True)
        y.gather(1, tt.zeros(1, 4096, dtype=tt.int64)).sum().backward()
        assert y.grad.tolist() == [[4096, 0]]


def test_scatter_repeats_in_order():
    """Index gradients have the same bits in every run: 20,000 float32 into 10 places."""
    rng = np.random.default_rng(0)
    values, index = rng.standard_normal((20000, 1)).astype(np.float32), rng.integers(0, 10, 20000)
    backend = backend_for(resolve())
    given, places = backend.from_host(values), backend.from_host(index)
    runs = {host(segments.segment_sum(given, places, 10)).tobytes() for _ in range(5)}
    assert len(runs) == 1


def test_an_index_changed_after_the_forward():
    """The gradient is that of the index used; a mask that changed is noticed."""
    x = tt.randn(4, 3, requires_grad=True)
    i = tt.tensor([1, 2])
    j = tt.tensor([[0, 1, 1]])
    out = x[i].sum() + x.gather(0, j).sum() + x.index_select(0, i).sum()
    i.zero_()
    j.zero_()
    out.backward()
    expected = np.zeros((4, 3))
    expected[1:3] += 2
    expected[[0, 1, 1], [0, 1, 2]] += 1
    np.testing.assert_array_equal(host(x.grad), expected)
    m = tt.tensor([True, False, True])
    out = x.masked_fill(m, 0.0)
    m.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        out.sum().backward()
