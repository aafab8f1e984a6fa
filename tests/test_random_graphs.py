"""Random graphs of broadcast operators, reductions and products: against PyTorch and against a naive engine.

The naive engine is forward mode on dual numbers in plain NumPy: one pass for each direction, no graph, no rule of ours.
"""
from __future__ import annotations

import numpy as np
from case import close, host, ours, tensor, torch_tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytorch_gpu.autograd import engine
from tinytorch_gpu.backend.kernel import use_kernels

# fresh examples in every run; a failure prints the graph itself, which is all that is needed to repeat it
RANDOM = settings(max_examples=50, deadline=None, database=None, derandomize=False,  # CI draws anew too
                  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
SHAPES = [(), (1,), (3,), (2, 1), (2, 3), (1, 3), (4, 2, 3), (4, 1, 1)]
UNARY = ["tanh", "neg", "sin", "exp", "sigmoid", "square", "abs"]
BINARY = ["add", "sub", "mul", "div", "maximum"]
REDUCE = ["sum", "mean", "amax", "logsumexp"]


@st.composite
def graphs(draw):
    """([leaf shapes], [(operator, operands, option)]): operands are numbers of earlier values."""
    leaves = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    shapes, steps = list(leaves), []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["unary", "binary", "binary", "reduce", "matmul", "scale"]))
        i = draw(st.integers(0, len(shapes) - 1))
        j = draw(st.integers(0, len(shapes) - 1))
        if kind == "binary":
            try:
                out = np.broadcast_shapes(shapes[i], shapes[j])
            except ValueError:
                kind = "unary"
            else:
                steps.append((draw(st.sampled_from(BINARY)), (i, j), None))
        if kind == "reduce":
            if not shapes[i]:
                kind = "unary"
            else:
                dim, keep = draw(st.integers(0, len(shapes[i]) - 1)), draw(st.booleans())
                out = tuple(1 if k == dim else n for k, n in enumerate(shapes[i]) if keep or k != dim)
                steps.append((draw(st.sampled_from(REDUCE)), (i,), (dim, keep)))
        if kind == "matmul":  # x @ x^T over the last two dimensions
            if len(shapes[i]) < 2:
                kind = "unary"
            else:
                out = (*shapes[i][:-1], shapes[i][-2])
                steps.append(("gram", (i,), None))
        if kind == "scale":
            out = shapes[i]
            steps.append(("scale", (i,), draw(st.floats(-2, 2).map(lambda v: round(v, 3)))))
        if kind == "unary":
            out = shapes[i]
            steps.append((draw(st.sampled_from(UNARY)), (i,), None))
        shapes.append(out)
    return leaves, steps


def evaluate(t, leaves, steps, tame):
    """The last value and all values, with the operators of namespace `t`; `tame` keeps numbers near one."""
    values = list(leaves)
    for name, operands, option in steps:
        a = values[operands[0]]
        if name in REDUCE:
            out = getattr(t, name)(a, option[0], option[1])
        elif name == "gram":
            out = t.matmul(a, t.transpose(a, -1, -2))
        elif name == "scale":
            out = t.mul(a, option)
        elif name == "div":
            b = values[operands[1]]
            out = t.div(a, t.add(t.mul(b, b), 1.0))
        elif name in BINARY:
            out = getattr(t, name)(a, values[operands[1]])
        else:
            out = getattr(t, name)(a)
        values.append(tame(t, out))
    return values


def tame(t, x):
    return t.tanh(t.mul(x, 0.5))


def used(steps, n):
    """The values that nothing uses: they all enter the loss."""
    inside = {i for _, operands, _ in steps for i in operands}
    return [i for i in range(n) if i not in inside]


def loss_of(t, values, ends):
    total = None
    for k, i in enumerate(ends):
        part = t.mul(t.sum(values[i]), 1.0 + 0.1 * k)
        total = part if total is None else t.add(total, part)
    return total


def draw_leaves(shapes, seed):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.uniform(-1.5, 1.5, s)) for s in shapes]


@RANDOM
@given(graphs(), st.integers(0, 2**32 - 1))
def test_gradients_of_random_graphs_agree_with_pytorch(torch, graph, seed):
    shapes, steps = graph
    arrays = draw_leaves(shapes, seed)
    results = []
    for t, grad, leaves in ((ours, engine.grad, [tensor(a, True) for a in arrays]),
                            (torch, torch.autograd.grad, [torch_tensor(torch, a, True) for a in arrays])):
        values = evaluate(t, leaves, steps, tame)
        ends = used(steps, len(values))
        loss = loss_of(t, values, ends)
        first = grad(loss, leaves, create_graph=True, allow_unused=True)
        some = [t.sum(t.mul(g, g)) for g in first if g is not None and g.requires_grad]
        second = grad(some, leaves, allow_unused=True) if some else ()
        results.append([values[-1], *first, *second])
    assert len(results[0]) == len(results[1])
    for i, (a, e) in enumerate(zip(*results)):
        if a is None or e is None:
            some = a if a is not None else e
            assert some is None or not host(some).any()
        else:
            close(a, e, 1e-10, f"result {i}")  # about 30 operators, some dividing: 1e4 roundings of 1e-16, and more


@RANDOM
@given(graphs(), st.integers(0, 2**32 - 1))
def test_gradients_of_random_graphs_agree_with_dual_numbers(graph, seed):
    shapes, steps = graph
    arrays = draw_leaves(shapes, seed)
    leaves = [tensor(a, True) for a in arrays]
    values = evaluate(ours, leaves, steps, tame)
    ends = used(steps, len(values))
    loss_of(ours, values, ends).backward()
    rng = np.random.default_rng(seed + 1)
    for _ in range(3):
        directions = [rng.uniform(-1, 1, a.shape) for a in arrays]
        duals = [Dual(a, d) for a, d in zip(arrays, directions)]
        moved = loss_of(DUALS, evaluate(DUALS, duals, steps, tame), ends).d
        found = sum(float((host(x.grad) * d).sum()) for x, d in zip(leaves, directions))
        assert abs(found - moved) <= 1e-9 * max(1.0, abs(moved)), f"{found} along the direction, dual numbers: {moved}"


@RANDOM
@given(graphs(), st.integers(0, 2**32 - 1))
def test_float32_and_both_readings_on_random_graphs(graph, seed):
    """backward and backward(create_graph=True) give equal bits for whole graphs too, sums of several uses included.

    By formulas: under create_graph no kernel runs, and a kernel sums in another order than its formula.
    """
    shapes, steps = graph
    arrays = [a.astype(np.float32) for a in draw_leaves(shapes, seed)]
    found = []
    for create in (False, True):
        leaves = [tensor(a, True) for a in arrays]
        with use_kernels(False):
            values = evaluate(ours, leaves, steps, tame)
            loss_of(ours, values, used(steps, len(values))).backward(create_graph=create)
        found.append([host(x.grad) for x in leaves])
    for a, b in zip(*found):
        assert a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


class Dual:
    """A value and its derivative along one direction."""

    def __init__(self, v, d):
        self.v, self.d = np.asarray(v), np.asarray(d)


def _lift(b):
    return b if isinstance(b, Dual) else Dual(b, np.zeros(np.shape(b)))


class DUALS:
    """The operators on dual numbers, from calculus."""

    @staticmethod
    def add(a, b):
        b = _lift(b)
        return Dual(a.v + b.v, a.d + b.d)

    @staticmethod
    def sub(a, b):
        return Dual(a.v - b.v, a.d - b.d)

    @staticmethod
    def mul(a, b):
        b = _lift(b)
        return Dual(a.v * b.v, a.d * b.v + a.v * b.d)

    @staticmethod
    def div(a, b):
        return Dual(a.v / b.v, (a.d * b.v - a.v * b.d) / b.v**2)

    @staticmethod
    def maximum(a, b):
        share = np.where(a.v == b.v, 0.5, a.v > b.v)  # a tie goes half to each, as in PyTorch
        return Dual(np.maximum(a.v, b.v), share * a.d + (1 - share) * b.d)

    @staticmethod
    def tanh(a):
        return Dual(np.tanh(a.v), a.d / np.cosh(a.v) ** 2)

    @staticmethod
    def neg(a):
        return Dual(-a.v, -a.d)

    @staticmethod
    def sin(a):
        return Dual(np.sin(a.v), np.cos(a.v) * a.d)

    @staticmethod
    def exp(a):
        return Dual(np.exp(a.v), np.exp(a.v) * a.d)

    @staticmethod
    def sigmoid(a):
        s = 1 / (1 + np.exp(-a.v))
        return Dual(s, s * (1 - s) * a.d)

    @staticmethod
    def square(a):
        return Dual(a.v**2, 2 * a.v * a.d)

    @staticmethod
    def abs(a):
        return Dual(np.abs(a.v), np.sign(a.v) * a.d)

    @staticmethod
    def sum(a, dim=None, keepdim=False):
        return Dual(a.v.sum(axis=dim, keepdims=keepdim), a.d.sum(axis=dim, keepdims=keepdim))

    @staticmethod
    def mean(a, dim, keepdim):
        return Dual(a.v.mean(axis=dim, keepdims=keepdim), a.d.mean(axis=dim, keepdims=keepdim))

    @staticmethod
    def amax(a, dim, keepdim):
        top = a.v.max(axis=dim, keepdims=True)
        share = (a.v == top) / (a.v == top).sum(axis=dim, keepdims=True)  # ties share evenly
        return Dual(a.v.max(axis=dim, keepdims=keepdim), (share * a.d).sum(axis=dim, keepdims=keepdim))

    @staticmethod
    def logsumexp(a, dim, keepdim):
        e = np.exp(a.v)
        s = e.sum(axis=dim, keepdims=keepdim)
        return Dual(np.log(s), (e * a.d).sum(axis=dim, keepdims=keepdim) / s)

    @staticmethod
    def transpose(a, i, j):
        return Dual(a.v.swapaxes(i, j), a.d.swapaxes(i, j))

    @staticmethod
    def matmul(a, b):
        return Dual(a.v @ b.v, a.d @ b.v + a.v @ b.d)
