"""look.profile: counts by hand, times by a clock that the test moves, operations beside PyTorch's count, the timeline
by a reader of its own; results and memory as without."""
from __future__ import annotations

import gc
import io
import json
import sys
import threading
import weakref
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from floors import changed, floors

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.autograd.operator import Operator
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.look import spans
from tinytorch_gpu.utils.checkpoint import checkpoint


@pytest.fixture(autouse=True)
def untouched():
    """After each test the lower floors are the very objects that they were."""
    before = floors()
    yield
    assert not changed(before)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for `clock.pass_(seconds)`."""
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

        def pass_(self, seconds):
            self.now += seconds

    found = Clock()
    monkeypatch.setattr(spans, "clock", found)
    return found


def small():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def row(rows, name):
    return next(r for r in rows if r["name"] == name)


def part(d, start):
    return next((p["seconds"] for p in d["parts"] if p["part"].startswith(start)), 0.0)


# results are those without


def train(rng_seed, profiled):
    tt.manual_seed(rng_seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    x = tt.randn(5, 6)

    def steps():
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    if profiled:
        with look.profile(model):
            steps()
    else:
        steps()
    return [np.asarray(t.detach().cpu().numpy()) for p in model.parameters() for t in (p, p.grad)]


def test_results_are_equal_to_the_bit(seed):
    for a, b in zip(train(seed, False), train(seed, True), strict=True):
        assert np.array_equal(a.view(np.uint32), b.view(np.uint32))


def test_a_leaf_takes_its_gradient_over_without_a_copy():
    """The engine owns by reference counts: a wrapper's frame that held a gradient would make a leaf copy it."""
    sent = []

    class Sends(Operator):
        __slots__ = ()

        def forward(node, x):
            return x + 0

        def backward(node, grad):
            fresh = grad * 2
            sent.append(pointer(fresh))
            return fresh

    def pointer(array):
        return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr

    def taken_over():
        x = tt.ones(1000, requires_grad=True)
        Sends.apply(x).sum().backward()
        return pointer(x.grad._array) == sent[-1]

    assert taken_over()
    with look.profile():
        assert taken_over()
    with look.profile(), look.profile():
        assert taken_over()


def test_gradients_and_graphs_die_as_without(rng):
    """Nothing of the profile keeps an array, a tensor, a node or a module alive."""
    gone = []
    gc.collect()
    gc.disable()
    try:
        with look.profile() as p:
            model = small()
            x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
            loss = model(x).sum()
            gone += [weakref.ref(loss._node), weakref.ref(x)]
            loss.backward()
            tt.gather(x, 1, tt.zeros(4, 2, dtype=tt.int64))
            x[tt.tensor([0, 1])].sum()
            gone.append(weakref.ref(model[0]))
            del loss, x
            assert [g() is None for g in gone] == [True, True, False]
    finally:
        gc.enable()
    del model
    gc.collect()
    assert gone[2]() is None and p.data["counts"]["passes"] == 1


# counts and times


def test_counts_are_those_of_the_program(rng):
    model, x = small(), tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.profile(model) as p:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
        with tt.no_grad():
            model(x)
    d = p.data
    assert {k: d["counts"][k] for k in ("operators", "nodes", "passes", "leaves", "steps", "module_calls")} == {
        "operators": 3 * 4 + 3, "nodes": 3 * 4, "passes": 3, "leaves": 3 * 4, "steps": 3, "module_calls": 4 * 4}
    linear = row(d["operators"], "Linear")
    assert linear["forward"]["calls"] == 8 and linear["backward"]["calls"] == 6
    assert row(d["operators"], "ReLU")["backward"]["calls"] == 3
    assert row(d["steps"], "SGD.step")["calls"] == 3
    modules = {m["name"]: m for m in d["modules"]}
    assert {n: (m["class"], m["forward"]["calls"], m["backward"]["calls"]) for n, m in modules.items()} == {
        "": ("Sequential", 4, 9), "0": ("Linear", 4, 3), "1": ("ReLU", 4, 3), "2": ("Linear", 4, 3)}
    assert d["counts"]["spans"] == sum(d["counts"][k] for k in ("nodes", "passes", "leaves", "steps", "kernels",
                                                                "module_calls")) + 15 + sum(
        r["calls"] for r in d["rules"])


class Ticks(Operator):
    """Takes seconds of the test's clock, forward and backward."""

    __slots__ = ("clock", "back")

    def forward(node, x, clock, seconds, back):
        clock.pass_(seconds)
        node.clock, node.back = clock, back
        return x + 0

    def backward(node, grad):
        node.clock.pass_(node.back)
        return Inner.apply(grad, clock=node.clock)


class Inner(Operator):
    __slots__ = ()

    def forward(node, x, clock):
        clock.pass_(0.25)
        return x + 0


class Ticking(nn.Module):
    def __init__(self, clock, seconds, back=0.0, own=0.0, inside=()):
        super().__init__()
        self.clock, self.seconds, self.back, self.own = clock, seconds, back, own
        self.inside = nn.ModuleList(inside)

    def forward(self, x):
        self.clock.pass_(self.own)
        x = Ticks.apply(x, clock=self.clock, seconds=self.seconds, back=self.back)
        for module in self.inside:
            x = module(x)
        return x


def test_times_are_those_of_the_clock(clock):
    model = Ticking(clock, 1.0, back=10.0, own=0.5, inside=[Ticking(clock, 2.0, back=20.0), Ticking(clock, 4.0)])
    x = tt.ones(2, requires_grad=True)
    with look.profile(model, device="cpu") as p:
        clock.pass_(0.125)
        y = model(x)
        y.backward(tt.ones(2))
    d = p.data
    ticks = row(d["operators"], "Ticks")
    assert ticks["forward"]["seconds"] == ticks["forward"]["own_seconds"] == 7.0
    assert ticks["backward"]["seconds"] == 30.75 and ticks["backward"]["own_seconds"] == 30.0
    assert row(d["rules"], "Inner")["seconds"] == 0.75 and row(d["rules"], "Inner")["calls"] == 3
    m = {m["name"]: m for m in d["modules"]}
    assert {n: (r["forward"]["seconds"], r["forward"]["own_seconds"], r["backward"]["seconds"],
                r["backward"]["own_seconds"]) for n, r in m.items()} == {
        "": (7.5, 1.5, 30.75, 10.25), "inside.0": (2.0, 2.0, 20.25, 20.25), "inside.1": (4.0, 4.0, 0.25, 0.25)}
    assert d["seconds"] == 38.375 and sum(q["seconds"] for q in d["parts"]) == d["seconds"]
    assert {q["part"]: q["seconds"] for q in d["parts"] if q["seconds"]} == {
        "operators forward": 7.0, "backward rules": 30.75, "modules' own code": 0.5, "all else": 0.125}
    assert {q["part"]: q["share"] for q in d["parts"]}["backward rules"] == 30.75 / 38.375
    # twice the time of one operator changes what holds it, by as much
    model.inside[0].seconds *= 2
    with look.profile(model, device="cpu") as other:
        clock.pass_(0.125)
        model(x).backward(tt.ones(2))
    o = other.data
    assert o["seconds"] == d["seconds"] + 2 and part(o, "operators") == part(d, "operators") + 2
    assert part(o, "backward") == part(d, "backward")


def test_the_profilers_own_time_is_taken_out(clock):
    class Dear(spans.Listener):
        def begin(self, span):
            clock.pass_(100.0)

        def end(self, span, mark):
            clock.pass_(1000.0)

    dear = Dear()
    model = Ticking(clock, 1.0, back=10.0, inside=[Ticking(clock, 2.0, back=20.0)])
    with look.profile(model, device="cpu") as p:
        spans.listen(dear)
        model(tt.ones(2, requires_grad=True)).backward(tt.ones(2))
        spans.leave(dear)
    d = p.data
    # modules 2, operators 2, the pass, nodes 2, in them 2, the leaf
    assert d["counts"]["spans"] == 10 and d["overhead"]["seconds"] == pytest.approx(10 * 1100.0)
    assert row(d["operators"], "Ticks")["forward"]["seconds"] == 3.0
    assert row(d["operators"], "Ticks")["backward"]["seconds"] == 30.5
    assert {m["name"]: m["forward"]["seconds"] for m in d["modules"]} == {"": 3.0, "inside.0": 2.0}
    assert d["seconds"] == 11000.0 + 33.5 and part(d, "all else") == pytest.approx(0.0, abs=1e-9)


def test_an_operator_inside_another_counts_once_in_the_time(clock):
    class Outer(Operator):
        __slots__ = ()

        def forward(node, x):
            clock.pass_(1.0)
            return Inner.apply(x, clock=clock)

    class Again(nn.Module):
        def forward(self, x, depth):
            clock.pass_(1.0)
            return x if depth == 0 else nn.Sequential(Call(self, depth - 1))(x)

    class Call(nn.Module):
        def __init__(self, to, depth):
            super().__init__()
            self.to, self.depth = [to], depth

        def forward(self, x):
            return self.to[0](x, self.depth)

    with look.profile(device="cpu") as p:
        Outer.apply(tt.ones(2))
        Again()(tt.ones(2), 2)
    d = p.data
    assert row(d["operators"], "Outer")["forward"]["seconds"] == 1.25
    assert row(d["operators"], "Outer")["forward"]["own_seconds"] == 1.0
    assert row(d["operators"], "Inner")["forward"]["own_seconds"] == 0.25
    again = [m for m in d["modules"] if m["class"] == "Again"]
    assert sum(m["forward"]["own_seconds"] for m in again) == 3.0
    assert max(m["forward"]["seconds"] for m in again) == 3.0


def test_an_optimizers_time_has_what_runs_in_it(clock):
    class Slow(optim.SGD):
        def step(self, closure=None):
            clock.pass_(2.0)
            Inner.apply(tt.ones(2), clock=clock)
            return super().step(closure)

    p = tt.ones(2, requires_grad=True)
    p.grad = tt.ones(2)
    with look.profile(device="cpu") as view:
        Slow([p], lr=0.1).step()
    d = view.data
    assert part(d, "optimizer") == 2.25 and part(d, "operators") == 0.0
    assert row(d["steps"], "Slow.step")["seconds"] == 2.25 and row(d["steps"], "Slow.step")["own_seconds"] == 2.0


def test_modules_have_their_names_in_the_model_though_a_part_is_called():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

        def encode(self, x):
            return self.body(x)

    model, x = Model(), tt.ones(2, 3)

    def names(*args):
        with look.profile(*args) as p:
            model.encode(x).sum().backward()
        return {m["name"] for m in p.data["modules"]}

    assert names(model) == {"body", "body.0", "body.1"} and names() == {"", "0", "1"}


def test_a_shared_module_has_its_name_in_the_one_that_is_called():
    shared = nn.Linear(3, 3)
    first, second = nn.Sequential(shared), nn.Sequential(nn.Tanh(), shared)

    class Calls(nn.Module):  # what it calls is no part of it
        def forward(self, x):
            return first(x)

    def names(*called):
        with look.profile() as p:
            for f in called:
                f(tt.ones(2, 3))
        return {(m["name"], m["class"]): m["forward"]["calls"] for m in p.data["modules"]}

    assert names(first, second, first) == {("", "Sequential"): 3, ("0", "Linear"): 2, ("1", "Linear"): 1,
                                           ("0", "Tanh"): 1}
    assert names(Calls()) == {("", "Calls"): 1, (None, "Sequential"): 1, (None, "Linear"): 1}
    assert names(first, Calls()) == {("", "Sequential"): 1, ("0", "Linear"): 1, ("", "Calls"): 1,
                                     (None, "Sequential"): 1, (None, "Linear"): 1}
    assert names(second, shared) == {("", "Sequential"): 1, ("0", "Tanh"): 1, ("1", "Linear"): 2}
    with look.profile() as p:
        second(tt.ones(2, 3))
        second.append(nn.ReLU())
        second(tt.ones(2, 3))
    assert ("2", "ReLU") in {(m["name"], m["class"]) for m in p.data["modules"]}


def test_a_checkpoint_runs_again_in_the_backward():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    x = tt.ones(2, 3, requires_grad=True)
    with look.profile(model) as p:
        checkpoint(model, x).sum().backward()
    d = p.data
    assert row(d["operators"], "Linear")["forward"]["calls"] == 1 and row(d["again"], "Linear")["calls"] == 1
    assert {m["name"]: m["forward"]["calls"] for m in d["modules"]} == {"": 1, "0": 1, "1": 1}


def test_a_change_through_a_view_belongs_to_its_module():
    class Writes(nn.Module):
        def forward(self, x):
            y = x * 2
            y[0].mul_(3)
            return y

    with look.profile() as p:
        Writes()(tt.ones(3, 2, requires_grad=True)).sum().backward()
    d = p.data
    assert row(d["operators"], "CopySlices")["backward"]["calls"] == 1
    nodes = d["counts"]["nodes"]
    assert [m["backward"]["calls"] for m in d["modules"]] == [nodes - 1]  # all but the sum


def test_an_operator_that_returns_its_operand_made_no_node(clock):
    class Same(Operator):
        __slots__ = ()

        @classmethod
        def apply(cls, x):
            return x

    class Passes(nn.Module):
        def forward(self, x):
            return Same.apply(x)

    with look.profile(device="cpu") as p:
        y = Ticks.apply(tt.ones(2, requires_grad=True), clock=clock, seconds=1.0, back=10.0)
        Passes()(y).backward(tt.ones(2))
    assert [m["backward"]["calls"] for m in p.data["modules"]] == [0]
    assert [e["name"] for e in p.trace()["traceEvents"] if e["ph"] == "X" and e["cat"] == "operator"][:2] == [
        "Ticks", "Same"]


def test_a_module_within_itself_counts_once(clock):
    class Folds(nn.Module):
        def forward(self, x, depth):
            x = Ticks.apply(x, clock=clock, seconds=1.0, back=10.0)
            return x if depth == 0 else Between()(lambda x: self(x, depth - 1), x)

    class Between(nn.Module):
        def forward(self, f, x):
            return f(x)

    model = Folds()
    with look.profile(model, device="cpu") as p:
        model(tt.ones(2, requires_grad=True), 2).backward(tt.ones(2))
    m = next(m for m in p.data["modules"] if m["class"] == "Folds")
    assert m["forward"]["calls"] == 3 and m["forward"]["seconds"] == m["forward"]["own_seconds"] == 3.0
    assert m["backward"]["calls"] == 3 and m["backward"]["seconds"] == m["backward"]["own_seconds"] == 30.75


# bytes, operations, ceilings


def test_products_are_those_that_pytorch_counts(torch, rng):
    from torch.utils.flop_counter import FlopCounterMode

    batch, wide, deep = (int(rng.integers(2, 40)) for _ in range(3))

    def found(wide):
        ours = nn.Sequential(nn.Linear(deep, wide), nn.Tanh(), nn.Linear(wide, 3))
        theirs = torch.nn.Sequential(torch.nn.Linear(deep, wide), torch.nn.Tanh(), torch.nn.Linear(wide, 3))
        with FlopCounterMode(display=False) as counter:
            theirs(torch.ones(batch, deep, requires_grad=True)).sum().backward()
        with look.profile() as p:
            ours(tt.ones(batch, deep, requires_grad=True)).sum().backward()
        d = p.data
        linear = row(d["operators"], "Linear")
        assert linear["forward"]["products"] + linear["backward"]["products"] == counter.get_total_flops()
        assert linear["forward"]["products"] == 2 * batch * wide * (deep + 3)
        return d

    print(f"batch {batch}, wide {wide}, deep {deep}")
    narrow, wider = found(wide), found(wide + 1)
    # one unit more: a row and a column of the weights, in all three products; nothing else that Tanh did not have
    grown = [row(d["operators"], "Linear") for d in (narrow, wider)]
    assert grown[1]["backward"]["products"] - grown[0]["backward"]["products"] == 2 * 2 * batch * (deep + 3)
    tanh = [row(d["operators"], "Tanh")["forward"] for d in (narrow, wider)]
    assert tanh[1]["bytes"] - tanh[0]["bytes"] == 2 * 4 * batch
    modules = {m["name"]: m for m in narrow["modules"]}
    assert modules["0"]["forward"]["products"] == 2 * batch * wide * deep
    assert modules[""]["forward"]["products"] == 2 * batch * wide * (deep + 3)


def test_rates_are_costs_over_time_and_the_bound_is_the_longest(clock, monkeypatch):
    from tinytorch_gpu.look.cost.ceiling import Ceiling
    from tinytorch_gpu.look.profile import table as profile_table

    found = profile_table.Sum()
    found.applications, found.flops, found.bytes, found.dtypes["float32"] = 3, 600.0, 90, 3
    top = Ceiling("cpu", False, bandwidth=30.0, copied=1, launch=0.5, products={"float32": 100.0, "float16": 1.0})
    r = profile_table.rates(found, 12.0, top)
    assert (r["flops_per_s"], r["bytes_per_s"], r["intensity"]) == (50.0, 7.5, 600 / 90)
    assert (r["bound"], r["share"]) == ("arithmetic", 0.5)  # 6 s of 12; 3 s for the bytes, 1.5 s for the launches
    found.bytes = 300
    assert profile_table.rates(found, 12.0, top)["bound"] == "memory"
    found.applications = 40
    assert profile_table.rates(found, 80.0, top)["bound"] == "launch"
    assert profile_table.rates(found, 80.0, top, gpu=True)["bound"] == "memory"
    found.dtypes["float16"] = 9
    assert profile_table.rates(found, 80.0, top)["bound"] == "arithmetic"
    found.unknown = 1
    r = profile_table.rates(found, 80.0, top)
    assert r["flops"] is r["bytes"] is r["share"] is r["bound"] is None


def test_what_is_not_known_is_said(clock):
    with look.profile(device="cpu") as p:
        Ticks.apply(tt.ones(2), clock=clock, seconds=1.0, back=0.0)

        class Add(tt.autograd.Function):  # of a name that is known, and another thing
            @staticmethod
            def forward(ctx, x):
                return x.detach()

        Add.apply(tt.ones(2, requires_grad=True))
    r = row(p.data["operators"], "Ticks")["forward"]
    assert r["unknown"] == 1 and r["bytes"] is r["bytes_per_s"] is r["share"] is None
    assert row(p.data["operators"], "Add")["forward"]["unknown"] == 1
    assert any("Ticks" in m for m in p.data["missing"])


def test_products_of_a_dtype_without_a_ceiling_are_told():
    x = tt.ones(3, 3, dtype=tt.float64)
    with look.profile() as p:
        _ = x @ x
    assert any("float64 are held against the ceiling of float32" in m for m in p.data["missing"])


def test_the_ceilings_are_measured_ones():
    from tinytorch_gpu.look.cost.ceiling import ceiling

    with look.profile() as p:
        _ = tt.ones(3) + 1
        assert p.data["ceiling"] is None  # the block's own time would be in it
    top = ceiling()
    assert p.data["ceiling"]["bandwidth"] == top.bandwidth > 0 and p.data["ceiling"]["products"] == top.products


# a device


def test_a_device_has_times_of_its_own_and_kernels(where, rng):
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()).to(where)
    x = tt.tensor(rng.standard_normal((4, 8)), dtype=tt.float32).to(where)
    model(x).sum().backward()
    with look.profile(model) as p:
        model(x).sum().backward()
    d = p.data
    assert d["device"].startswith(where.type) and d["gpu"] == (where.type == "cuda")
    assert d["device_seconds"] > 0 and d["counts"]["kernels"] == sum(k["calls"] for k in d["kernels"]) > 0
    norm = row(d["kernels"], "norm_forward")
    # input, weight, bias and output; mean and deviation of the rows
    assert norm["calls"] == 1 and norm["bytes"] >= (2 * 4 * 8 + 2 * 8) * 4 and norm["device_seconds"] > 0
    for o in d["operators"]:
        for r in (o["forward"], o["backward"]):
            assert r is None or r["device_seconds"] > 0
    text = str(p)
    assert "between events on the stream" in text
    assert where.type == "cuda" or "simulated device" in text  # whose times are no GPU's
    complete, _ = check_trace(p.trace())
    assert {e["name"] for e in complete if e["pid"] == 2} >= {"norm_forward", "Linear", "GELU backward"}


def test_no_event_goes_into_a_stream_that_is_captured():
    from tinytorch_gpu.backend import simulated

    x = tt.ones(4, device="sim")
    with look.profile(device="sim") as p:
        _ = x + 1
        with simulated.capture() as graph:
            _ = x * 2
        _ = x + 2
    names = {o["name"]: o["forward"] for o in p.data["operators"]}
    assert names["Add"]["device_seconds"] > 0 and names["Mul"]["device_seconds"] is None
    graph.launch()
    check_trace(p.trace())


def test_spans_on_several_streams_are_timed_each_on_its_own():
    x = tt.ones(64, 64, device="sim")
    with look.profile(device="sim") as p:
        with tt.cuda.stream(tt.cuda.Stream("sim")):
            y = x * 2
        _ = y + 1
    assert all(o["forward"]["device_seconds"] > 0 for o in p.data["operators"])


def test_the_host_alone_has_no_device_times():
    with look.profile(device="cpu") as p:
        _ = tt.ones(3, device="cpu") + 1
    assert p.data["device_seconds"] is None and "device" not in [c.title for c in _heads(p)]


def _heads(p):
    from tinytorch_gpu.look.profile.text import tables_of

    return [c for _, head, _ in tables_of(p.data) for c in head]


# the timeline


def check_trace(trace):
    """Reads a timeline as the Trace Event Format says, and refuses what a viewer would drop; its complete events."""
    trace = json.loads(json.dumps(trace, allow_nan=False))
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"} and trace["displayTimeUnit"] in ("ms", "ns")
    named, complete, flows = {}, [], {}
    for e in trace["traceEvents"]:
        assert e["ph"] in "XMsf" and isinstance(e["name"], str) and e["name"]
        assert isinstance(e["pid"], int) and isinstance(e["tid"], int) and isinstance(e["ts"], (int, float))
        if e["ph"] == "M":
            field = {"process_name": "name", "thread_name": "name", "process_sort_index": "sort_index",
                     "thread_sort_index": "sort_index"}[e["name"]]
            assert set(e["args"]) == {field}
            named[e["name"], e["pid"], e["tid"] if e["name"].startswith("thread") else None] = e["args"][field]
        elif e["ph"] == "X":
            assert e["ts"] >= 0 and e["dur"] >= 0 and isinstance(e["args"], dict) and isinstance(e["cat"], str)
            complete.append(e)
        else:
            assert isinstance(e["cat"], str) and (e["ph"] == "s" or e["bp"] == "e")
            flows.setdefault((e["cat"], e["name"], e["id"]), {}).setdefault(e["ph"], []).append(e)
    for e in complete:
        assert ("process_name", e["pid"], None) in named and ("thread_name", e["pid"], e["tid"]) in named
    rows = {}
    for e in complete:
        rows.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"], e["name"]))
    slack = 0.0021  # written to the nanosecond
    for (pid, _), spans_ in rows.items():
        open_ = []
        for begin, end, name in sorted(spans_, key=lambda s: (s[0], -s[1])):
            while open_ and open_[-1][1] <= begin + slack:
                open_.pop()
            assert pid != 1 or not open_ or end <= open_[-1][1] + slack, (name, open_[-1])  # one lies within another
            open_.append((begin, end))
    for flow in flows.values():
        assert len(flow["s"]) == len(flow["f"]) == 1 and flow["s"][0]["ts"] <= flow["f"][0]["ts"]
        for e in (flow["s"][0], flow["f"][0]):  # an arrow ends in a span
            assert any(b - slack <= e["ts"] <= s + slack for b, s, _ in rows[e["pid"], e["tid"]])
    return complete, flows


def test_the_timeline_is_one_that_a_reader_can_open(rng, tmp_path):
    model, x = small(), tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.profile(model) as p:
        model(x).sum().backward()
        optimizer.step()
    path = p.save(tmp_path / "step.trace.json")
    trace = json.loads(path.read_text(encoding="utf-8"))
    complete, flows = check_trace(trace)
    host = [e for e in complete if e["pid"] == 1]
    assert len(host) == p.data["counts"]["spans"] + 1 and len(flows) == 4  # one arrow from each operator
    names = [(e["cat"], e["name"]) for e in host]
    for wanted in (("module", "Sequential"), ("operator", "Linear"), ("backward", "Linear backward"),
                   ("backward", "AccumulateGrad"), ("optimizer", "SGD.step")):
        assert wanted in names
    linear = next(e for e in host if e["name"] == "Linear" and e["cat"] == "operator")
    assert linear["args"]["inputs"] == "f32[4,5]; f32[7,5]; f32[7]" and linear["args"]["outputs"] == "f32[4,7]"
    assert linear["args"]["module"] == "0 (Linear)" and linear["args"]["flops"] == 2 * 4 * 5 * 7 + 4 * 7
    ends = {e["ts"]: e["name"] for e in host if e["cat"] == "backward"}
    assert {ends[f["f"][0]["ts"]] for f in flows.values()} == {"Sum backward", "Linear backward", "ReLU backward"}
    assert json.loads((p.save(tmp_path / "figures.json")).read_text(encoding="utf-8"))["view"] == "profile"


def test_threads_have_rows_of_their_own(clock):
    clock_now = clock

    def work():
        Ticks.apply(tt.ones(2, device="cpu"), clock=clock_now, seconds=4.0, back=0.0)

    with look.profile(device="cpu") as p:
        Ticks.apply(tt.ones(2, device="cpu"), clock=clock, seconds=1.0, back=0.0)
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        thread.join()
    d = p.data
    assert d["threads"] == 2 and row(d["operators"], "Ticks")["forward"]["seconds"] == 5.0
    assert part(d, "operators") == 1.0 and part(d, "all else") == 4.0  # of the block's own thread
    trace = p.trace()
    complete, _ = check_trace(trace)
    assert len({e["tid"] for e in complete}) == 2
    assert "worker" in [e["args"].get("name") for e in trace["traceEvents"] if e["ph"] == "M"]


def test_a_long_run_keeps_its_sums_and_the_first_spans(monkeypatch):
    for name in ("profile.profile", "profile.data", "profile.watch"):
        monkeypatch.setattr(sys.modules[f"tinytorch_gpu.look.{name}"], "KEPT", 10)
    x = tt.ones(2)
    with look.profile() as p:
        for _ in range(25):
            _ = x + 1
    d = p.data
    assert row(d["operators"], "Add")["forward"]["calls"] == 25 == d["counts"]["spans"]
    complete, _ = check_trace(p.trace())
    assert len([e for e in complete if e["name"] == "Add" and e["pid"] == 1]) == 10
    assert any("first 10 of 25 spans" in m for m in d["missing"])


# the view


@pytest.fixture(scope="module")
def view():
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8))
    optimizer = optim.AdamW(model.parameters())
    x = tt.ones(16, 32)
    with look.profile(model) as p:
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), tt.zeros(16, dtype=tt.int64)).backward()
            optimizer.step()
    return p


def test_shares_are_of_what_the_program_took(clock):
    """A listener that takes a second at each end of a span changes the block's time and no share."""
    class Slow(spans.Listener):
        def begin(self, span):
            clock.pass_(1.0)

        def end(self, span, mark):
            clock.pass_(1.0)

    model, x = Ticking(clock, 1.0, back=3.0, own=0.5), tt.ones(2, requires_grad=True)

    def watched():
        with look.profile(model, device="cpu") as p:
            model(x).backward(tt.ones(2))
            clock.pass_(0.25)
        return p.data

    alone = watched()
    slow = Slow()
    spans.listen(slow)
    try:
        beside = watched()
    finally:
        spans.leave(slow)
    assert alone["seconds"] == alone["program_seconds"] == beside["program_seconds"] == 5.0
    assert beside["seconds"] == 5.0 + beside["overhead"]["seconds"] == 5.0 + 2 * beside["counts"]["spans"]
    assert beside["parts"] == alone["parts"] and "the profiler" not in [q["part"] for q in beside["parts"]]
    assert {q["part"]: q["share"] for q in beside["parts"] if q["share"]} == {
        "operators forward": 0.2, "backward rules": 0.65, "modules' own code": 0.1, "all else": 0.05}
    assert row(beside["operators"], "Ticks")["forward"]["time_share"] == 0.2
    assert row(beside["operators"], "Ticks")["backward"]["time_share"] == 0.65
    assert beside["modules"][0]["time_share"] == (1.5 + 3.25) / 5


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_fits(view, width):
    out = io.StringIO()
    view.print(out, width=width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = out.getvalue()
    for word in ("Linear", "backward", "AdamW.step", "roofline", "the profiler", "measured"):
        assert word in text
    assert ("not shown in" in text) == (width < 100)


def test_the_page_and_the_picture_show_what_ran(view):
    text = view.to_html()
    assert "<script" not in text and text.count("<svg") == 1 and "roofline" in text and "Linear" in text
    texts = [t.text for t in ElementTree.fromstring(view.to_svg()).iter("{http://www.w3.org/2000/svg}text")]
    assert "roofline" in texts and "the program's time" in texts


def test_before_inside_and_after_the_block(tmp_path):
    p = look.profile()
    assert "nothing was watched" in str(p) and "nothing was watched" in repr(p) and "nothing was watched" in p.page()
    for refused in (p.to_svg, p.trace):
        with pytest.raises(ValueError, match="nothing was watched"):
            refused()
    with p:
        assert "nothing has ended yet" in str(p)
        _ = tt.ones(2) + 1
        assert p.data["state"] == "open" and p.data["counts"]["operators"] == 1
        assert "still open" in str(p)
    assert p.data["state"] == "closed" and p.data is p.data
    with pytest.raises(RuntimeError, match=r"\[profile\] a view watches one block"):
        p.__enter__()
    with look.profile() as empty:
        pass
    assert "nothing ran inside the block" in str(empty) and empty.data["ceiling"] is None
    check_trace(empty.trace())
    empty.save(tmp_path / "e.svg")
    empty.save(tmp_path / "e.html")


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"\[profile\] expected a Module or None, got function: run the program"):
        look.profile(lambda: None)
    with pytest.raises((ValueError, RuntimeError)):
        look.profile(device="tpu")


def test_under_a_recording_it_says_so():
    x = tt.ones(2, requires_grad=True)
    with look.record(), look.profile() as p:
        (x * 2).sum().backward()
    assert any("look.record()" in m for m in p.data["missing"])
    with look.profile() as p:
        with look.record():
            (x * 2).sum().backward()
    assert any("look.record()" in m for m in p.data["missing"])
    with look.profile() as p:
        (x * 2).sum().backward()
    assert not p.data["missing"]


def test_profiles_nest():
    x = tt.ones(2)
    with look.profile() as outer:
        _ = x + 1
        with look.profile() as inner:
            _ = x * 2
    assert [o["name"] for o in inner.data["operators"]] == ["Mul"]
    assert {o["name"] for o in outer.data["operators"]} == {"Add", "Mul"}


def test_the_cost_of_a_span_that_no_clock_sees_is_small_and_told(view):
    o = view.data["overhead"]
    assert 0 <= o["residual_per_span"] < 1e-3 and o["spans"] == view.data["counts"]["spans"]
    assert o["residual_seconds"] == o["residual_per_span"] * o["spans"]
    assert 0 < o["share"] < 1 and o["seconds"] + view.data["program_seconds"] == pytest.approx(view.data["seconds"])
    assert sum(q["share"] for q in view.data["parts"]) == pytest.approx(1)


@pytest.mark.parametrize("function, inner", [(nn.functional.geglu, "GELU"), (nn.functional.swiglu, "SiLU")])
def test_an_operator_within_a_fused_one_has_its_own_time(function, inner):
    a, b = (tt.ones(4, 4, requires_grad=True) for _ in range(2))
    with use_kernels(False), look.profile() as p:  # by its formula, which applies the other
        function(a, b).sum().backward()
    outside, within = (row(p.data["operators"], name)["forward"] for name in ("Gated", inner))
    assert (outside["calls"], within["calls"]) == (1, 1) and within["seconds"] > 0
    assert outside["seconds"] - outside["own_seconds"] >= within["seconds"]
    assert {f"{inner}Backward", "GatedBackward"} <= {r["name"] for r in p.data["rules"]}
