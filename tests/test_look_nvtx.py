"""look.nvtx: ranges as a profiler gets them, by a domain that writes them down; the real package without a GPU."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
import types

import pytest
from floors import changed, floors

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.look.cost.ceiling import ceiling


@pytest.fixture(autouse=True)
def untouched():
    """After each test the lower floors are the very objects that they were."""
    before = floors()
    yield
    assert not changed(before)


class Domain:
    """A domain of the nvtx package that writes down what is pushed and popped, by thread."""

    def __init__(self):
        self.open, self.lines, self.made, self.categories = {}, [], [], {}

    def get_category_id(self, name):
        return self.categories.setdefault(name, len(self.categories) + 1)

    def get_event_attributes(self, message=None, color=None, category=None, payload=None):
        self.made.append(message)
        return message, color, category

    def push_range(self, attributes):
        stack = self.open.setdefault(threading.get_ident(), [])
        self.lines.append((len(stack), attributes[0]))
        stack.append(attributes)

    def pop_range(self):
        self.open[threading.get_ident()].pop()  # an IndexError where nothing is open

    @property
    def left(self):
        return sum(map(len, self.open.values()))


@pytest.fixture
def domain(monkeypatch):
    found = Domain()
    names = []
    monkeypatch.setitem(sys.modules, "nvtx", types.SimpleNamespace(get_domain=lambda n: names.append(n) or found))
    yield found
    assert set(names) <= {"tinytorch_gpu"} and found.left == 0


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(3, 4)

    def forward(self, x):
        return tt.tanh(self.up(x))


def test_ranges_are_named_and_nested_as_the_program_runs(domain):
    model = nn.Sequential(Block(), nn.Linear(4, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.nvtx():
        model(tt.ones(5, 3)).sum().backward()
        optimizer.step()
    tt.ones(2) + 1
    shown = [(depth, name) for depth, name in domain.lines if depth < 3 or depth == 3 and name == "Linear"]
    forward, backward = shown[:7], [name for _, name in shown[8:] if name.endswith("backward")]
    assert forward == [(0, "Sequential"), (1, "0 Block"), (2, "0.up Linear"), (3, "Linear"), (2, "Tanh"),
                       (1, "1 Linear"), (2, "Linear")]
    assert shown[7:10] == [(0, "Sum"), (0, "backward()"), (1, "Sum backward")]
    assert backward == ["Sum backward", "Linear backward", "Tanh backward", "Linear backward"]
    assert [(d, n) for d, n in shown if n == "AccumulateGrad"] == [(1, "AccumulateGrad")] * 4
    assert [name for depth, name in shown if depth == 0][-1] == "SGD.step"
    assert {"operator", "backward", "module", "optimizer"} <= set(domain.categories)


def test_attributes_are_made_once_for_a_name(domain):
    x = tt.ones(2)
    with look.nvtx():
        for _ in range(50):
            _ = x + 1
    assert domain.made == ["Add"] and len(domain.lines) == 50


def test_kernels_have_ranges(domain, where):
    x = tt.ones(4, 8, device=where)
    norm = nn.LayerNorm(8).to(where)
    norm(x)
    with look.nvtx():
        norm(x)
    assert domain.lines == [(0, "LayerNorm"), (1, "LayerNorm"), (2, "norm_forward")]
    assert "kernel" in domain.categories


@pytest.mark.parametrize("where_", ["forward", "backward"])
def test_ranges_are_popped_when_something_raises(domain, where_):
    class Bad(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if where_ == "forward":
                raise ArithmeticError
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ArithmeticError

    class Holds(nn.Module):
        def forward(self, x):
            return Bad.apply(x)

    with look.nvtx():
        with pytest.raises(ArithmeticError):
            nn.Sequential(Holds())(tt.ones(2, requires_grad=True)).sum().backward()
        assert domain.left == 0
        tt.ones(2) + 1
    assert domain.lines[-1] == (0, "Add")
    with pytest.raises(ArithmeticError), look.nvtx():
        nn.Sequential(Holds())(tt.ones(2, requires_grad=True)).sum().backward()


def test_blocks_nest_and_stand_beside_a_profile(domain):
    x = tt.ones(2)
    with look.nvtx(), look.profile() as p, look.nvtx():
        _ = x * 2
    with look.profile():
        _ = x * 2
    assert domain.lines == [(0, "Mul")]
    ceiling()  # measured with operators, once in a process
    with look.nvtx():
        assert p.data["counts"]["spans"] == 1 and p.data["overhead"]["residual_per_span"] >= 0
    assert domain.lines == [(0, "Mul")]  # the spans that measure themselves are nobody else's
    with look.nvtx():
        with look.nvtx():
            pass
        _ = x + 1  # the outer block is still open
    assert domain.lines[-1] == (0, "Add")


def test_each_thread_has_its_own_ranges(domain):
    inside, go = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x):
            inside.set()
            assert go.wait(20)
            return x + 1

    thread = threading.Thread(target=lambda: Waits()(tt.ones(2)))
    with look.nvtx():
        thread.start()
        assert inside.wait(20)
        _ = tt.ones(2) * 2
    assert domain.left == 1  # it ends though the block has
    go.set()
    thread.join()
    assert domain.lines == [(0, "Waits"), (0, "Mul")]


def test_without_the_package_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    for platform, word in (("linux", "pip install nvtx"), ("darwin", "no nvtx package for macOS")):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(ImportError, match=rf"\[nvtx\] the nvtx package is not installed: .*{word}"), look.nvtx():
            pass


def test_the_real_package_without_a_gpu():
    pytest.importorskip("nvtx", reason="nvtx is not installed: it has no wheels for macOS")
    x = tt.ones(2, requires_grad=True)
    with look.nvtx():
        (nn.Linear(2, 2)(x) * 2).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("value, profiler, code, says", [
    ("1", "", 0, "1 [0]"), ("0", "", 0, "0 []"), ("", "", 0, "0 []"), ("", "/opt/a/profiler.so", 0, "1 [0]"),
    ("0", "/opt/a/profiler.so", 0, "0 []"), ("yes", "", 1, "TINYTORCH_NVTX must be 0 or 1, got 'yes'")])
def test_the_environment_opens_a_block_for_the_whole_program(value, profiler, code, says):
    if says == "1 [0]":
        pytest.importorskip("nvtx", reason="nvtx is not installed: it has no wheels for macOS")
    program = ("import sys, tinytorch_gpu as tt\n"
               "loaded = sys.modules.get('tinytorch_gpu.look.spans')\n"
               "listeners = loaded._listeners if loaded else ()\n"
               "class Late(tt.optim.SGD):\n"
               "    def step(self, closure=None): return super().step(closure)\n"
               "x = tt.ones(2, requires_grad=True)\n"
               "(x * 2).sum().backward()\n"
               "Late([x], lr=0.1).step()\n"
               "print(len(listeners), [0] if hasattr(Late.step, '__wrapped__') and listeners else [])\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "TINYTORCH_NVTX": value, "NVTX_INJECTION64_PATH": profiler})
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
