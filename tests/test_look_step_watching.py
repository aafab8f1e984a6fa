"""look.step: what a block leaves behind, blocks that overlap, threads, optimizers around others, steps that raise."""
from __future__ import annotations

import contextlib
import gc
import math
import threading
import weakref

import pytest
from step_program import batch, kinds, loss_of, net, norm, plain, program

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.amp import GradScaler
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.nn import utils
from tinytorch_gpu.optim import optimizer as step_hooks

made = pytest.fixture(program)

# nothing stays


def places(model, optimizer):
    own = [t for m in model.modules() for t in (m._forward_hooks, m._forward_pre_hooks)]
    tables = [*own, module_hooks.forward, module_hooks.forward_pre, step_hooks._pre_hooks, step_hooks._post_hooks,
              optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    functions = [engine.run, engine._roots, utils._grads, GradScaler.scale, GradScaler.unscale_, GradScaler.step]
    return [[len(t) for t in tables], functions, [p._hooks for p in model.parameters()]]


def test_nothing_stays_behind(made):
    model, optimizer, x = made
    before = places(model, optimizer)
    with look.step(model, optimizer):
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        with look.step(model, optimizer):
            inside = places(model, optimizer)
        assert all(a != b for a, b in zip(places(model, optimizer), before))
        assert inside[1] == places(model, optimizer)[1]
    assert places(model, optimizer) == before
    with pytest.raises(KeyError), look.step(model, optimizer):
        raise KeyError
    assert places(model, optimizer) == before
    assert loss.grad_fn.hooks is None


@pytest.mark.parametrize("order", ["spSP", "spPS", "psSP", "psPS", "sptSPT", "pstSPT", "stpPTS", "pstPST", "sptPST"])
def test_blocks_that_overlap_put_back_what_was_there(made, order):
    """Small letters begin a block, great ones end it; look.profile wraps the engine too."""
    model, optimizer, x = made
    before = places(model, optimizer)
    views = {"s": look.step(model, optimizer), "t": look.step(model, optimizer), "p": look.profile()}
    steps = dict.fromkeys(views, 0)
    running: set[str] = set()
    for letter in order:
        view = views[letter.lower()]
        if letter.islower():
            view.__enter__()
            running.add(letter)
        else:
            view.__exit__(None, None, None)
            running.discard(letter.lower())
        plain(model, optimizer, x)
        steps = {name: n + 3 * (name in running) for name, n in steps.items()}
    assert places(model, optimizer) == before
    for name in set(order.lower()) - {"p"}:
        assert len(views[name].data["steps"]) == views[name].data["backwards"] == steps[name]
        assert kinds(views[name]) == []


def test_a_users_hooks_stay(made):
    model, optimizer, x = made
    seen = []
    handle = model[0].weight.register_hook(lambda g: seen.append(norm(g)))
    with look.step(model, optimizer):
        plain(model, optimizer, x)
    loss_of(model, x).backward()
    assert len(seen) == 4 and len(model[0].weight._hooks.tensor) == 1
    handle.remove()


def test_graphs_gradients_and_models_die(made):
    model, optimizer, x = made
    gc.collect()
    gc.disable()
    try:
        with look.step(model, optimizer) as view:
            loss = loss_of(model, x)
            node = weakref.ref(loss.grad_fn)
            loss.backward()
            optimizer.step()
            grad = weakref.ref(model[0].weight.grad)
            optimizer.zero_grad()
            del loss
            assert node() is None and grad() is None
    finally:
        gc.enable()
    model, optimizer = nn.Linear(2, 2), None
    alive = weakref.ref(model)
    with look.step(model) as view:
        model(tt.ones(1, 2)).sum().backward()
    del model
    gc.collect()
    assert alive() is None and view.data["backwards"] == 1


def test_a_block_that_is_left_by_an_error(made):
    model, optimizer, x = made
    before = places(model, optimizer)
    view = look.step(model, optimizer)
    with pytest.raises(RuntimeError, match="freed"), view:
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        loss.backward()
    assert places(model, optimizer) == before and len(view.data["steps"]) == 1


# beside others


def test_threads(made):
    model, optimizer, x = made
    other = net()
    theirs = optim.SGD(other.parameters(), lr=0.05)
    with look.step([model, other], [optimizer, theirs]) as view:
        threads = [threading.Thread(target=plain, args=a) for a in ((model, optimizer, x), (other, theirs, x))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert kinds(view) == [] and len(view.data["steps"]) == 6
    assert sorted(s["number"] for s in view.data["steps"]) == list(range(1, 7))


def test_inside_other_views(made):
    model, optimizer, x = made
    with look.record(), look.gradients(model, optimizer) as g, look.step(model, optimizer) as view:
        plain(model, optimizer, x)
    assert kinds(view) == [] and g.data["steps"] == len(view.data["steps"]) == 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype, seed):
    kind = getattr(tt, dtype)
    model = net().to(kind)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    with look.step(model, optimizer) as view:
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model, batch(seed).to(kind)).backward()
            expected = math.hypot(*[norm(p.grad.float()) for p in model.parameters()])
            optimizer.step()
    assert view.data["steps"][1]["norm"] == pytest.approx(expected, rel=1e-4) and kinds(view) == []


class Slow(optim.Optimizer):
    """An optimizer around another one, as Lookahead: its step calls the other's."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        self.inner.step()


@pytest.mark.parametrize("which", ["outer", "inner", "none"])
def test_an_optimizer_around_another_one(made, which):
    model, optimizer, x = made
    outer = Slow(optimizer)
    with look.step(model, {"outer": outer, "inner": optimizer, "none": None}[which]) as view:
        plain(model, outer, x)
    assert kinds(view) == [] and len(view.data["steps"]) == 3
    with look.step(model, outer) as view:
        for _ in range(2):
            loss_of(model, x).backward()
            outer.step()
    assert kinds(view) == ["zero_grad"]


def test_a_step_that_raises_is_no_step(made):
    model, optimizer, x = made

    def closure():
        raise KeyError("data")

    with look.step(model, optimizer) as view:
        with contextlib.suppress(KeyError):
            optimizer.step(closure)
        plain(model, optimizer, x)
    assert len(view.data["steps"]) == 3 and kinds(view) == []


def test_steps_after_one_that_raised(made):
    model, optimizer, x = made

    class Breaks(Slow):
        broken = True

        def step(self, closure=None):
            if self.broken:
                raise KeyError("data")
            super().step()

    outer = Breaks(optimizer)
    with look.step(model, outer) as view:
        with contextlib.suppress(KeyError):
            outer.step()
        plain(model, optimizer, x)  # no longer inside the step that raised
        outer.broken = False
        plain(model, outer, x)
    assert len(view.data["steps"]) == 6 and kinds(view) == []


def test_without_an_optimizer_those_that_step_count(made):
    model, optimizer, x = made
    strange = net()
    with look.step(model) as view:
        plain(model, optimizer, x)
        plain(strange, optim.SGD(strange.parameters(), lr=0.1), x)
    assert view.data["optimizers"] == ["SGD"] and len(view.data["steps"]) == 3 and kinds(view) == []
    with look.step(model) as view:
        loss_of(model, x).backward()
    assert kinds(view) == [] and any("give the optimizer" in m for m in view.data["missing"])
