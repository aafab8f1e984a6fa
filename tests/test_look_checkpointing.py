"""look.checkpointing: bytes by hand for networks of known activations, gradients, blocks found, nothing left behind."""
from __future__ import annotations

import copy
import gc
import io
import math
import re
import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.look.checkpointing.blocks import _repeats, checkpointed, found_blocks
from tinytorch_gpu.look.checkpointing.checkpointing import _judge
from tinytorch_gpu.look.checkpointing.run import _compare, ways_of
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.utils.checkpoint import checkpoint, checkpoint_sequential

ONE = 2**16 * 4  # bytes of an activation of the chains below


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Measuring collects garbage: what the other tests left is put aside."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def host(t):
    return t.detach().cpu().numpy()


def total(out, *batch):
    return out.sum()


def way(view, name):
    return next(w for w in view.data["ways"] if w["name"] == name)


class Tanhs(nn.Module):
    """A block of m tanh: each saves its output, nothing else."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x, number=0):
        for _ in range(self.m):
            x = x.tanh()
        return x


class Loop(nn.Module):
    """Blocks called one by one; `numbered`: each with another argument."""

    def __init__(self, blocks, numbered=False):
        super().__init__()
        self.blocks, self.numbered = nn.ModuleList(blocks), numbered

    def forward(self, x):
        for i, block in enumerate(self.blocks):
            x = block(x, i if self.numbered else 0)
        return x


def chain(n, m=1, **options):
    x = tt.full((2**16,), 0.5, requires_grad=True)
    return look.checkpointing(Loop([Tanhs(m) for _ in range(n)], **options), x, total, repeats=1,
                              every=list(range(1, n + 1)))


def mlp(n, every, rows=4096, dim=16):
    """n blocks of Linear and Tanh: each keeps its output of rows * dim numbers, which is the next one's input."""
    layers = [m for _ in range(n) for m in (nn.Linear(dim, dim), nn.Tanh())]
    return look.checkpointing(nn.Sequential(*layers), tt.full((rows, dim), 0.1), total, repeats=1,
                              every=every)


# bytes by hand


@pytest.mark.parametrize("n, m", [(6, 1), (6, 3), (9, 2)])
def test_bytes_of_segments_by_hand(n, m):
    """A chain of n blocks of m activations in segments: the inputs of all but the first, which is the batch, are held
    until the backward. While segment i, counted from 0, runs again, i of them are left, and there are the segment's
    own activations, and the gradient from the next segment: the last one's is a sum's, which takes no memory."""
    d = chain(n, m).data
    assert d["chained"] and len(d["blocks"]) == n
    none = d["ways"][0]
    assert none["held"] == pytest.approx(n * m * ONE, rel=0.02)
    above = none["peak"] - n * m * ONE  # two temporaries of tanh's rule, the same in all
    assert above == pytest.approx(2 * ONE, rel=0.05)
    for w in d["ways"][1:]:
        inputs, plain = len(w["sizes"]) - 1, (n - sum(w["sizes"])) * m  # tanh does not keep its input: a plain one none
        assert w["held"] == pytest.approx((inputs + plain) * ONE, abs=0.1 * ONE), w["name"]
        here = [i + size * m + (i < inputs or plain > 0) for i, size in enumerate(w["sizes"])] + [inputs + plain]
        assert w["peak"] - above == pytest.approx(max(here) * ONE, abs=0.1 * ONE), w["name"]


def test_a_deep_mlp_takes_n_over_k_plus_k():
    found = {n: {len(w["sizes"]): w for w in mlp(n, [2, 4]).data["ways"] if "plain" not in w["kind"]} for n in (8, 16)}
    for n, ways in found.items():
        constant = ways[0]["peak"] - n * ONE
        for segments, w in ways.items():
            if segments and n % segments == 0:
                k = n // segments
                assert w["peak"] - constant == pytest.approx((segments - 1 + k) * ONE, abs=0.2 * ONE), (n, k)
                assert w["held"] == pytest.approx((segments - 1) * ONE, abs=0.2 * ONE)
    # twice the depth adds what the formula says, and a segment's bytes depend on its own size only
    assert found[16][0]["peak"] - found[8][0]["peak"] == pytest.approx(8 * ONE, rel=0.02)
    assert found[16][4]["peak"] - found[8][4]["peak"] == pytest.approx(2 * ONE, rel=0.05)  # 3 + 4 against 3 + 2
    assert found[16][8]["peak"] - found[8][4]["peak"] == pytest.approx(4 * ONE, rel=0.05)  # 7 + 2 against 3 + 2


def test_twice_the_rows_take_twice_the_bytes():
    one, two = mlp(4, [4]).data["ways"], mlp(4, [4], rows=8192).data["ways"]
    for a, b in zip(one, two):
        assert a["name"] == b["name"] and b["peak"] == pytest.approx(2 * a["peak"], rel=0.03)


@pytest.mark.parametrize("n, m", [(6, 2), (8, 3)])
def test_bytes_of_blocks_by_themselves_by_hand(n, m):
    """Of n blocks of m activations c are checkpointed: (n - c) m are held, and the inputs of those c that no other
    block has saved as its output."""
    d = chain(n, m, numbered=True).data
    assert not d["chained"] and d["why"] == "the blocks are called with different further arguments"
    for w in d["ways"]:
        c = len(w["sizes"])
        k = n if c == 0 else math.ceil(n / c)
        own = 0 if k > 1 or c == 0 else n - 1  # only where checkpoint follows checkpoint
        if w["kind"] == "every" or c == 0:
            assert w["held"] == pytest.approx(((n - c) * m + own) * ONE, rel=0.02, abs=0.06 * ONE), w["name"]


def test_bytes_are_those_of_a_hand_written_checkpoint():
    tt.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(32, 32), nn.GELU())]).to("cpu")
    x = tt.ones(2048, 32, device="cpu")
    view = look.checkpointing(model, x, total, repeats=1, every=[2])

    def step(forward):
        for p in model.parameters():
            p.grad = None
        forward().sum().backward()

    def in_a_row():
        out = x
        for part in (model[:4], model[4:8], model[8:]):
            out = checkpoint(part, out)
        return out

    for name, forward in (("none", lambda: model(x)), ("3 segments of 2", in_a_row),
                          ("2 segments of 3, last plain", lambda: checkpoint_sequential(model, 2, x))):
        step(forward)
        for p in model.parameters():
            p.grad = None
        gc.collect()
        tracemalloc.start()
        try:
            step(forward)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert way(view, name)["peak"] == pytest.approx(peak, rel=0.02), name


# gradients


class Block(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.drop = nn.Dropout(0.3)

    def forward(self, x, scale=1.0):
        return x + scale * self.drop(self.down(nn.functional.gelu(self.up(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, n=5, between=False, collect=False):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block() for _ in range(n)]), nn.Linear(8, 3)
        self.between, self.collect = between, collect

    def forward(self, x):
        seen = 0
        for block in self.blocks:
            x = block(x, scale=0.5)
            if self.between:
                x = x * 1.5
            if self.collect:
                seen = seen + x.mean()
        return self.head(x) + seen


@pytest.mark.parametrize("between", [False, True])
def test_gradients_agree_and_dropout_is_replayed(seed, between):
    tt.manual_seed(seed)
    view = look.checkpointing(Net(4, between), tt.randn(4, 8), total, repeats=1, every=[1, 3])
    d = view.data
    assert d["chained"] != between and len(d["ways"]) >= 3 and d["random"]
    assert len({w["loss"] for w in d["ways"]}) == 1  # the masks are those of the same random state
    for w in d["ways"]:
        assert w["agrees"] and w["difference"] < 1e-6
    if tt.get_default_device().type == "cpu":
        assert all(w["same_bits"] for w in d["ways"])
    assert "random numbers are replayed" in " ".join(str(view).split())


def test_gradients_that_differ_are_not_judged(seed):
    """A model that uses what is between the blocks: within a segment that is the segment's output."""
    tt.manual_seed(seed)
    view = look.checkpointing(Net(4, collect=True), tt.randn(4, 8), total, repeats=1)
    good = [w["name"] for w in view.data["ways"] if w["agrees"]]
    assert good == ["none", "4 segments of 1"]
    assert all(not w["choice"] and w["dominated"] is None for w in view.data["ways"] if not w["agrees"])
    text = " ".join(str(view).split())
    assert "differs" in text and "not judged, because the loss or the gradients are others" in text


def test_the_difference_of_gradients():
    def arrays(*values):
        return [None if v is None else tt.tensor(v)._array for v in values]

    a = arrays([1.0, -4.0], [0.0], None)
    assert _compare(a, a) == _compare(arrays([1.0, -4.0], [0.0], None), a) == (0.0, True)
    assert _compare(arrays([1.0, -4.5], [0.0], None), a) == (0.125, False)  # 0.5 of 4
    assert _compare(arrays([1.0, -4.0], [1.0], None), a) == (math.inf, False)
    assert _compare(arrays([1.0, -4.0], [0.0], [1.0]), a) == (math.inf, False)
    assert _compare(arrays([math.nan, -4.0], [0.0], None), a) == (math.inf, False)
    rows = judged((100, 1.0), (50, 1.0), differences=(0.0, 1e-4))
    assert [r["agrees"] for r in rows] == [True, False] and rows[0]["choice"]


def test_statistics_that_are_updated_twice_are_named():
    layers = [m for _ in range(4) for m in (nn.Linear(6, 6), nn.BatchNorm1d(6))]
    model = nn.Sequential(*layers)
    before = [host(b).tobytes() for b in model.buffers()]
    view = look.checkpointing(model, tt.ones(3, 6).cumsum(0), total, repeats=1)
    assert view.data["ways"][0]["buffers"] == [] and "1.num_batches_tracked" in way(
        view, "4 segments of 1")["buffers"]
    assert "again, as running statistics: 1.num_batches_tracked, " in " ".join(str(view).split())
    assert [host(b).tobytes() for b in model.buffers()] == before
    assert all(w["agrees"] for w in view.data["ways"])


# which way to take


def judged(*costs, differences=None):
    rows = [{"name": str(i), "peak": peak, "seconds": [seconds], "loss": 1.0, "difference": difference}
            for i, ((peak, seconds), difference) in enumerate(zip(costs, differences or [0.0] * len(costs)))]
    _judge(rows)
    return rows


def test_the_pareto_front_on_numbers():
    rows = judged((100, 1.0), (50, 1.5), (60, 1.6), (50, 1.4), (20, 6.0), (100, 1.0))
    assert [r["dominated"] for r in rows] == [None, 3, 1, None, None, None]
    assert [r["choice"] for r in rows] == [False, False, False, True, False, False]  # 100, 75, 96, 70, 120
    assert [r["saved"] for r in rows] == pytest.approx([0, 0.5, 0.4, 0.5, 0.8, 0])
    assert [r["added"] for r in rows] == pytest.approx([0, 0.5, 0.6, 0.4, 5, 0])
    assert [r["choice"] for r in judged((100, 1.0), (90, 1.2))] == [True, False]


def test_the_share_saved_by_hand():
    d = chain(8, 2).data
    best = min(d["ways"], key=lambda w: w["peak"])
    assert best["sizes"] == [2, 2, 2, 2] and best["saved"] == pytest.approx(1 - 9 / 18, abs=0.01)  # 2 + 4 + 1 + 2
    assert d["ways"][d["choice"]]["dominated"] is None


def test_ways_of_chained_blocks():
    (blocks,) = found_blocks(nn.Sequential(*[nn.Linear(2, 2) for _ in range(10)]))
    blocks.chained = True
    sizes = {w.name: w.sizes for w in ways_of(blocks)}
    assert sizes == {
        "none": [], "10 segments of 1": [1] * 10, "5 segments of 2": [2] * 5, "3 segments of 4 (sqrt n)": [4, 4, 2],
        "3 segments of 4, last plain": [4, 4], "2 segments of 8": [8, 2]}
    assert [len(s) for w in ways_of(blocks) for s in w.segments[:1]] == [1, 2, 4, 4, 8]
    assert list({w.name: w.sizes for w in ways_of(blocks, [3, 10])}.values())[1:] == [[3, 3, 3, 1], [4, 4, 2], [4, 4],
                                                                                      [10]]


def test_ways_of_blocks_by_themselves():
    (blocks,) = found_blocks(nn.ModuleList([nn.Linear(2, 2) for _ in range(11)]))
    sizes = {w.name: len(w.sizes) for w in ways_of(blocks)}
    assert sizes == {"none": 0, "all blocks": 11, "every 2nd block": 6, "every 4th block": 3, "every 8th block": 2}
    assert [w.name for w in ways_of(blocks, [3])][1:] == ["every 3rd block", "3 of 11 blocks (sqrt n)"]
    chosen = ways_of(blocks, [3])[2].segments
    assert [blocks.modules.index(m) for (m,) in chosen] == [0, 3, 7]


# blocks


def test_repetitions():
    for marks, expected in (("aaaa", (0, 1, 4)), ("xababab", (1, 2, 3)), ("ababa", (0, 2, 2)), ("abc", (0, 0, 0)),
                            ("aabb", (0, 1, 2)), ("xyzabcabcabc", (3, 3, 3)), ("", (0, 0, 0)), ("a", (0, 0, 0))):
        found = _repeats(list(marks))
        assert found == expected or (found[2] == expected[2] == 0), (marks, found)


def test_places_where_modules_repeat():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(2, 2) for _ in range(9)])

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(Inside(), Inside()), nn.Linear(4, 3), nn.ReLU(),
                          nn.Sequential(*[nn.Sequential(nn.Tanh(), nn.Tanh()) for _ in range(3)]))
    assert [(b.where, b.names) for b in found_blocks(model)] == [
        ("2", ["2.0", "2.1"]), ("5", ["5.0", "5.1", "5.2"])]  # not what lies in a block
    layers = [m for _ in range(3) for m in (nn.Linear(5, 5), nn.ReLU())]
    (blocks,) = found_blocks(nn.Sequential(nn.Linear(2, 5), nn.ReLU(), *layers, nn.Linear(5, 1)))
    assert blocks.names == ["1-2", "3-4", "5-6"]
    assert found_blocks(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))) == found_blocks(nn.Linear(2, 2)) == []


@pytest.mark.parametrize("wide", ["first", "second"])
def test_of_several_places_the_one_that_frees_most_is_taken(wide):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.ModuleList([nn.Embedding(1000, 9) for _ in range(3)])  # the most parameters
            self.first = nn.Sequential(*[Tanhs(5 if wide == "first" else 2) for _ in range(4)])
            self.second = nn.ModuleList([Tanhs(5 if wide == "second" else 2) for _ in range(3)])

        def forward(self, x):
            x = self.first(x)
            for block in self.second:
                x = block(x)
            return x

    view = look.checkpointing(Two(), tt.ones(2**14, requires_grad=True), total, repeats=1, every=2)
    assert view.data["where"] == wide


def test_a_mask_that_is_sliced_for_each_block_is_the_same():
    class Times(nn.Linear):
        def forward(self, x, mask):
            return super().forward(x) * mask

    class Masked(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.blocks = nn.ModuleList([Times(2, 2) for _ in range(3)])
            self.register_buffer("mask", tt.ones(4, 6))
            self.shift = shift

        def forward(self, x):
            for i, block in enumerate(self.blocks):
                x = block(x, self.mask[:3, i * self.shift:2 + i * self.shift])
            return x

    x = tt.ones(3, 2)
    same, moved = (look.checkpointing(Masked(shift), x, total, repeats=1, every=3).data for shift in (0, 1))
    assert same["chained"] and all(w["agrees"] for w in same["ways"])
    assert moved["why"] == "the blocks are called with different further arguments"
    assert all(w["agrees"] for w in moved["ways"])


def test_why_blocks_share_no_checkpoint(seed):
    tt.manual_seed(seed)

    class Twice(Net):
        def forward(self, x):
            return super().forward(super().forward(x) @ tt.ones(3, 8))

    class Backwards(Net):
        def forward(self, x):
            for i in (1, 0, 3, 2, 4):
                x = self.blocks[i](x)
            return x

    hooked = Net()
    handle = hooked.blocks[1].register_forward_hook(lambda m, args, out: None)
    x = tt.randn(2, 8)
    for model, why in ((Twice(), "a block is called several times"), (hooked, "a block has hooks of its own"),
                       (Net(between=True), "a block is not called with what the one before it returned")):
        view = look.checkpointing(model, x, total, repeats=1, every=2)
        assert view.data["why"] == why and f"each checkpoint holds one block only: {why}" in " ".join(
            str(view).split())
        assert all(w["agrees"] for w in view.data["ways"])
    handle.remove()
    view = look.checkpointing(Backwards(), x, total, repeats=1, every=2)
    assert view.data["chained"]  # in the order of their calls
    assert view.data["blocks"] == [f"blocks.{i}" for i in (1, 0, 3, 2, 4)]


def test_blocks_of_the_users_own(seed):
    tt.manual_seed(seed)
    model, x = Net(4), tt.randn(2, 8)
    for blocks in (model.blocks, list(model.blocks), tuple(model.blocks[:3])):
        d = look.checkpointing(model, x, total, blocks=blocks, repeats=1, every=2).data
        assert d["blocks"] == [f"blocks.{i}" for i in range(len(blocks))] and d["chained"]
    d = look.checkpointing(model, x, total, blocks=[model.blocks[0], model.blocks[2]], repeats=1).data
    assert not d["chained"] and d["ways"][1]["name"] == "all blocks"


# nothing stays


def bits(model, x):
    return {
        "tensors": [(host(t).tobytes(), id(t._array), t._version) for t in (*model.parameters(), *model.buffers())],
        "grads": [(id(p.grad), None if p.grad is None else host(p.grad).tobytes()) for p in model.parameters()],
        "batch": (host(x).tobytes(), id(x.grad)), "random": tt.random.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "hooks": [len(t) for m in model.modules() for t in (m._forward_hooks, m._forward_pre_hooks)],
        "global hooks": [len(module_hooks.forward), len(module_hooks.forward_pre)],
        "modes": [m.training for m in model.modules()],
        "attributes": [sorted(m.__dict__) for m in model.modules()],
    }


def test_everything_is_left_bit_for_bit(seed):
    tt.manual_seed(seed)
    model, x = Net(3), tt.randn(2, 8, requires_grad=True)
    model(x).sum().backward()
    before = bits(model, x)
    look.checkpointing(model, x, total, repeats=1)
    assert bits(model, x) == before


@pytest.mark.parametrize("call", [1, 4, 9])
def test_it_is_left_so_after_an_error_too(seed, call):
    tt.manual_seed(seed)
    model, x = Net(), tt.randn(2, 8)
    mine = model.blocks[2].forward
    model.blocks[2].forward = lambda *args, **kwargs: mine(*args, **kwargs)  # a forward of the user's own stays
    own = model.blocks[2].forward
    model(x).sum().backward()
    before = bits(model, x)
    calls = []

    def failing(out, x):
        calls.append(1)
        if len(calls) == call:
            raise KeyError("mine")
        return out.sum()

    with pytest.raises(KeyError, match="mine"):
        look.checkpointing(model, x, failing, repeats=1)
    assert bits(model, x) == before and model.blocks[2].forward is own


def test_forwards_are_put_back():
    model = nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh())
    x = tt.ones(3, requires_grad=True)
    expected = host(model(x))
    with checkpointed([[model[0], model[1]], [model[2]]]):
        assert np.array_equal(host(model(x)), expected) and all("forward" in m.__dict__ for m in model)
    assert not any("forward" in m.__dict__ for m in model)


# the view


@pytest.fixture(scope="module")
def view():
    tt.manual_seed(1)
    return look.checkpointing(Net(9), tt.randn(16, 8), total, repeats=2, every=[1, 3, 9])


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_the_text_says_what_was_measured(view, width):
    out = io.StringIO()
    view.print(out, width)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        assert "checkpointing of Net on" in text and "9 segments of 1" in text and "Pareto front" in text
    if width == 200:
        assert "not shown in" not in text and "held after forward" in text and "the choice" in text


def test_the_page_and_the_picture_show_all_ways(view):
    root = ElementTree.fromstring(view.to_svg())
    assert "Pareto front" in [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    page = view.to_html()
    assert "<svg" in page and "blocks.8" in page and "9 blocks" in repr(view)


def test_each_way_is_timed_as_often_as_asked(view):
    assert all(len(w["seconds"]) == 2 and min(w["seconds"]) > 0 for w in view.data["ways"])
    d = copy.deepcopy(view.data)
    for w in d["ways"]:
        w["choice"] = False
    d["choice"] = 0
    assert "no checkpoints: none of the ways has less bytes times seconds" in " ".join(
        str(look.Checkpointing(d)).split())


def test_it_runs_under_no_grad():
    with tt.no_grad():
        assert all(w["agrees"] for w in look.checkpointing(Net(2), tt.ones(1, 8), total, repeats=1).data["ways"])
        assert not tt.is_grad_enabled()


def test_eval_mode_is_said():
    text = " ".join(str(look.checkpointing(Net(2).eval(), tt.ones(1, 8), total, repeats=1)).split())
    assert "the model is in eval mode" in text and "random numbers" not in text


# bad input


def test_bad_arguments():
    model, x = Net(4), tt.ones(2, 8)
    for options, error, message in (
            (dict(loss=3), TypeError, "loss must be a function"),
            (dict(repeats=0), ValueError, "repeats must be a whole number of at least 1, got 0"),
            (dict(every=5), ValueError, "every must be from 1 to 4, the number of blocks, got 5"),
            (dict(every=[0]), ValueError, "every must be from 1 to 4, the number of blocks, got 0"),
            (dict(every=[True]), ValueError, "every must be a whole number or a list of them, got [True]"),
            (dict(every="all"), ValueError, "every must be a whole number or a list of them, got 'all'"),
            (dict(every=[]), ValueError, "every must be a whole number or a list of them, got []"),
            (dict(blocks=3), TypeError, "blocks must be a Sequential, a ModuleList or a list of modules, got int"),
            (dict(blocks=[model.head]), ValueError, "blocks must be two different modules or more, got 1"),
            (dict(blocks=[model.head, model.head]), ValueError, "blocks must be two different modules or more"),
            (dict(blocks=[nn.ReLU(), model.head]), ValueError, "a ReLU in blocks is no part of Net"),
            (dict(loss=lambda out, x: out), ValueError, "the loss must be one number, got float32 of shape (2, 3)")):
        with pytest.raises(error, match=r"\[checkpointing\] .*" + re.escape(message)):
            look.checkpointing(model, x, **{"loss": total, **options})
    with pytest.raises(ValueError, match=r"\[checkpointing\] the output of the model must be one number.*pass loss="):
        look.checkpointing(model, x)
    with pytest.raises(ValueError, match=r"\[checkpointing\] no modules repeat in a Sequential or ModuleList of Lin.*"
                                         "of which this model has none"):
        look.checkpointing(nn.Linear(2, 2), tt.ones(1, 2), total)
    for modules, named in (
            ({"stem": nn.Linear(2, 3), "act": nn.ReLU(), "head": nn.Linear(3, 2)}, "[model.stem, model.head]"),
            ({"parts": nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 2)})},
             "[model.parts['a'], model.parts['b']]"),
            ({"one": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))}, "[model.one[0], model.one[2]]")):
        model = nn.Module()
        for name, module in modules.items():
            setattr(model, name, module)
        with pytest.raises(ValueError, match=re.escape(f"one after another, blocks={named}")):
            look.checkpointing(model, tt.ones(1, 2), total)
        assert [type(m) for m in eval(named, {"model": model})] == [nn.Linear] * 2
    with pytest.raises(TypeError, match=r"\[checkpointing\] expected a Module, got str"):
        look.checkpointing("model", x)

    class Unused(Net):
        def forward(self, x):
            return self.head(self.blocks[0](x))

    with pytest.raises(ValueError, match=r"\[checkpointing\] block blocks.1 is not called.*pass the modules that are, "
                                         r"blocks=\[model.blocks\[0\], model.head\]"):
        look.checkpointing(Unused(), x, total)
