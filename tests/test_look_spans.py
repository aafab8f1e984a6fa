"""look.spans: what a listener is told, in order; after it the lower floors are the very objects that they were."""
from __future__ import annotations

import threading

import pytest
from floors import changed, floors

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.autograd import operator
from tinytorch_gpu.autograd.operator import Operator
from tinytorch_gpu.backend import kernel as kernels
from tinytorch_gpu.look import spans


@pytest.fixture(autouse=True)
def untouched():
    """After each test the lower floors are the very objects that they were."""
    before = floors()
    yield
    assert not changed(before)


class Heard(spans.Listener):
    """What a listener is told, in order."""

    def __init__(self):
        self.lines, self.ended = [], []

    def begin(self, span):
        self.lines.append((span.kind, span.name))
        return len(self.lines)

    def end(self, span, mark):
        self.lines.append(("end", span.name))
        self.ended.append((mark, span.kind, span.name, span.failed))

    def __enter__(self):
        spans.listen(self)
        return self

    def __exit__(self, *exc):
        spans.leave(self)

    def names(self, kind):
        return [name for k, name in self.lines if k == kind]


def small():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def test_every_layer_is_told_from_outside_in(rng):
    model, x = small(), tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with Heard() as heard:
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
    assert heard.names("module") == ["Sequential", "Linear", "ReLU", "Linear"]
    assert heard.lines[:6] == [("module", "Sequential"), ("module", "Linear"), ("operator", "Linear"),
                               ("end", "Linear"), ("end", "Linear"), ("module", "ReLU")]
    assert heard.names("pass") == ["backward()"]
    assert heard.names("backward") == ["Sum", "Linear", "ReLU", "Linear"]
    assert heard.names("leaf") == ["AccumulateGrad"] * 4 and heard.names("step") == ["SGD.step"]
    depth = 0
    for kind, _ in heard.lines:
        depth += -1 if kind == "end" else 1
        assert depth >= 0
    assert depth == 0 and not any(failed for *_, failed in heard.ended)


def test_each_application_is_told_once():
    """_Order's apply calls Pointwise's; views, comparisons and casts have ways of their own."""
    x = tt.ones(3, 3)
    with Heard() as heard:
        _ = x < 2
        _ = x.reshape(9)
        _ = x + 1
        _ = x.to(tt.float64)
        _ = x @ x
    assert heard.names("operator") == ["Lt", "Reshape", "Add", "Cast", "Gemm"]


def test_an_operator_in_place_holds_its_operator():
    x = tt.ones(3)
    with Heard() as heard:
        x.add_(1)
        x += 1
        x[0] = 2.0
    assert heard.lines[:4] == [("inplace", "add_"), ("operator", "Add"), ("end", "Add"), ("end", "add_")]
    assert heard.names("inplace")[:2] == ["add_", "add_"] and len(heard.names("inplace")) == 3


def test_users_own_functions_and_operators_are_told():
    class Twice(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    def triple(x):
        return x * 3

    f = tt.custom_vjp(triple)
    f.defvjp(lambda x: (x * 3, x), lambda x, grad: grad * 3)
    x = tt.ones(2, requires_grad=True)
    with Heard() as heard:
        f(Twice.apply(x)).sum().backward()
    assert heard.names("operator")[:3] == ["Twice", "Add", "triple"]
    assert heard.names("backward") == ["Sum", "triple", "Twice"]


def test_the_second_attempt_after_a_lack_of_memory_is_the_same_application(monkeypatch):
    class Needy(Operator):
        __slots__ = ()
        tried = 0

        def forward(node, x):
            Needy.tried += 1
            if Needy.tried == 1:
                raise MemoryError
            return x + 1

    monkeypatch.setattr(operator, "again", lambda name, error, run, *args, **kwargs: run(*args, **kwargs))
    with Heard() as heard:
        Needy.apply(tt.ones(2))
    assert Needy.tried == 2 and heard.names("operator") == ["Needy"] and len(heard.lines) == 2


def test_classes_made_while_somebody_listens_are_told_and_restored(untouched):
    with Heard() as heard:
        class Late(optim.SGD):
            def step(self, closure=None):
                return None

        class Own(Operator):
            __slots__ = ()

            @classmethod
            def apply(cls, x):
                return x

        p = tt.ones(2, requires_grad=True)
        p.grad = tt.ones(2)
        Late([p], lr=0.1).step()
        Own.apply(tt.ones(2))
    assert heard.names("step") == ["Late.step"] and heard.names("operator") == ["Own"]
    count = len(heard.lines)
    Own.apply(tt.ones(2))
    Late([p], lr=0.1).step()
    assert len(heard.lines) == count


@pytest.mark.parametrize("where", ["operator", "module", "backward", "step", "inplace"])
def test_spans_close_when_something_raises(where):
    class Broken(Operator):
        __slots__ = ()

        def forward(node, x, at):
            if at == "operator":
                raise ArithmeticError(at)
            return x + 0

        def backward(node, grad):
            raise ArithmeticError("backward")

    class Bad(nn.Module):
        def forward(self, x):
            raise ArithmeticError("module")

    class BadStep(optim.SGD):
        def step(self, closure=None):
            raise ArithmeticError("step")

    x = tt.ones(2, requires_grad=True)

    def run():
        if where == "operator":
            Broken.apply(x, at=where)
        elif where == "module":
            nn.Sequential(Bad())(x)
        elif where == "backward":
            Broken.apply(x, at="").sum().backward()
        elif where == "step":
            BadStep([x], lr=0.1).step()
        else:
            tt.ones(2).add_(tt.ones(2, 2))

    with Heard() as heard:
        with pytest.raises((ArithmeticError, RuntimeError)):
            run()
        _ = x + 1  # after it everything goes on as before
    assert len([1 for kind, _ in heard.lines if kind == "end"]) * 2 == len(heard.lines)
    assert any(failed for *_, failed in heard.ended) and heard.lines[-2:] == [("operator", "Add"), ("end", "Add")]
    with look.profile() as p, pytest.raises((ArithmeticError, RuntimeError)):
        run()
    assert p.data["counts"]["spans"] == len(heard.ended) - 1


def test_the_originals_come_back_though_two_listen_in_threads():
    before = floors()
    inside, go = threading.Event(), threading.Event()
    first, second = Heard(), Heard()

    class Slow(Operator):
        __slots__ = ()

        def forward(node, x):
            inside.set()
            assert go.wait(20)
            return x + 1

    before.update({k: v for k, v in floors().items() if k[0] is Slow})
    spans.listen(first)
    spans.listen(second)
    thread = threading.Thread(target=lambda: Slow.apply(tt.ones(2)))
    thread.start()
    assert inside.wait(20)
    assert floors()[Operator, "apply"] is not before[Operator, "apply"]
    spans.leave(first)
    assert floors()[Operator, "apply"] is not before[Operator, "apply"]  # the second is still there
    spans.leave(second)
    assert all(floors()[k] is v for k, v in before.items())
    go.set()  # what was running inside a wrapper still ends for those who saw it begin
    thread.join()
    assert first.lines == second.lines == [("operator", "Slow"), ("end", "Slow")]
    tt.ones(2) + 1
    assert len(first.lines) == 2


def test_a_listener_that_raises_leaves_no_span_open():
    class Wrong(Heard):
        def begin(self, span):
            if span.name == "Mul":
                raise KeyError("no")
            return super().begin(span)

    x = tt.ones(2)
    with Heard() as outer, Wrong() as wrong:
        with pytest.raises(KeyError):
            _ = x * x
        _ = x + x
    assert outer.lines == [("operator", "Mul"), ("end", "Mul"), ("operator", "Add"), ("end", "Add")]
    assert wrong.lines == [("operator", "Add"), ("end", "Add")]


def test_what_somebody_else_put_there_since_stays(monkeypatch):
    heard = Heard()
    spans.listen(heard)
    ours = kernels.Kernel.__call__

    def theirs(self, *args, **options):
        return ours(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kernels.Kernel, "__call__", theirs)
        spans.leave(heard)
        assert kernels.Kernel.__call__ is theirs
    kernels.Kernel.__call__ = ours.__wrapped__
