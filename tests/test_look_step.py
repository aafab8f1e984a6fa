"""look.step: every pitfall is named where it is, clean loops are clean; its figures against PyTorch and formulas."""
from __future__ import annotations

import contextlib
import gc
import html.parser
import io
import json
import math
import threading
import weakref
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.amp import GradScaler
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.nn import utils
from tinytorch_gpu.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from tinytorch_gpu.optim import optimizer as step_hooks
from tinytorch_gpu.utils.checkpoint import checkpoint


def host(t):
    return np.asarray(t.detach().cpu().numpy(), np.float64)


def norm(t):
    return float(np.linalg.norm(host(t).ravel()))


def together(model):
    return math.hypot(*[norm(p.grad) for p in model.parameters() if p.grad is not None])


def net():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def batch(seed, size=4):
    return tt.tensor(np.random.default_rng(seed).standard_normal((size, 5)), dtype=tt.float32)


def loss_of(model, x):
    return model(x).square().mean()


def kinds(view):
    return [f["kind"] for f in view.data["findings"]]


def finding(view, kind):
    found, = [f for f in view.data["findings"] if f["kind"] == kind]
    return found


@pytest.fixture
def made(seed):
    tt.manual_seed(seed)
    print(f"tt.manual_seed({seed})")
    model = net()
    return model, optim.SGD(model.parameters(), lr=0.05), batch(seed)


# clean loops have no finding


def plain(model, optimizer, x):
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def zeroed_in_place(model, optimizer, x):
    for _ in range(3):
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def zeroed_by_hand(model, optimizer, x):
    for _ in range(3):
        loss_of(model, x).backward()
        optimizer.step()
        for p in model.parameters():
            p.grad.zero_()


def accumulated(model, optimizer, x):
    for _ in range(3):
        for _ in range(4):
            loss = loss_of(model, x) / 4
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def accumulated_with_zeros(model, optimizer, x):
    for k in range(12):
        loss_of(model, x).backward()
        if k % 4 == 3:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)


def closures(model, optimizer, x):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def frozen(model, optimizer, x):
    model[0].requires_grad_(False)
    plain(model, optimizer, x)


def thawed(model, optimizer, x):
    model[0].requires_grad_(False)
    plain(model, optimizer, x)
    model[0].requires_grad_(True)
    plain(model, optimizer, x)


def scaled(model, optimizer, x, clip=True):
    scaler = GradScaler(x.device.type, init_scale=64.0)
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, x)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()


def scaled_without_clipping(model, optimizer, x):
    scaled(model, optimizer, x, clip=False)


def scaled_and_accumulated(model, optimizer, x):
    scaler = GradScaler(x.device.type, init_scale=64.0)
    for _ in range(3):
        for _ in range(2):
            scaler.scale(loss_of(model, x) / 2).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)


def scaled_and_divided_by_hand(model, optimizer, x):
    scaler = GradScaler(x.device.type, init_scale=64.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x)).backward()
        for p in model.parameters():
            p.grad.div_(64)
        clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()


def warm_up(model, optimizer, x):
    for k in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * k
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def logged(model, optimizer, x):
    losses, total, first = [], 0.0, None
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        total += loss.item()
        first = first if first is not None else loss.detach()


def validated(model, optimizer, x):
    for _ in range(3):
        plain(model, optimizer, x)
        model.eval()
        with tt.no_grad():
            loss_of(model, x)
        model.train()


def looked_at(model, optimizer, x):
    """Gradients taken apart from the steps: they are cleared, or never in .grad."""
    for _ in range(3):
        loss = loss_of(model, x)
        tt.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        loss.backward(retain_graph=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def given(model, optimizer, x):
    for k in range(3):
        for p in model.parameters():
            p.grad = tt.ones_like(p) * (k + 1)
        optimizer.step()


def checkpointed(model, optimizer, x):
    for _ in range(3):
        optimizer.zero_grad()
        checkpoint(model, x).square().mean().backward()
        optimizer.step()


CLEAN = [plain, zeroed_in_place, zeroed_by_hand, accumulated, accumulated_with_zeros, closures, frozen, thawed, scaled,
         scaled_without_clipping, scaled_and_accumulated, scaled_and_divided_by_hand, warm_up, logged, validated,
         looked_at, given, checkpointed]


@pytest.mark.parametrize("loop", CLEAN, ids=lambda f: f.__name__)
def test_a_clean_loop_has_no_finding(made, loop):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        loop(model, optimizer, x)
    assert view.data["findings"] == [] and len(view.data["steps"]) >= 3
    assert "no pitfall found" in str(view)


@pytest.mark.parametrize("loop", [plain, accumulated, scaled, closures], ids=lambda f: f.__name__)
def test_watching_changes_no_result(seed, loop):
    results = []
    for watch in (False, True):
        tt.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 3))
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        with look.step(model, optimizer) if watch else contextlib.nullcontext():
            loop(model, optimizer, batch(seed))
        results.append([host(p) for p in model.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*results))


def test_two_networks_that_train_against_each_other(seed):
    tt.manual_seed(seed)
    maker, judge = nn.Linear(2, 5), nn.Linear(5, 1)
    makes, judges = optim.SGD(maker.parameters(), lr=0.01), optim.SGD(judge.parameters(), lr=0.01)
    noise = batch(seed)[:, :2]
    for cut in (True, False):  # without detach() the judge's loss fills the maker's .grad, which is cleared unused
        with look.step([maker, judge], [makes, judges]) as view:
            for _ in range(3):
                judges.zero_grad()
                fake = maker(noise)
                judge_loss = judge(fake.detach() if cut else fake).mean() - judge(batch(1)).mean()
                judge_loss.backward()
                judges.step()
                makes.zero_grad()
                maker_loss = -judge(maker(noise)).mean()
                maker_loss.backward()
                makes.step()
        assert view.data["findings"] == [], cut
        assert [s["optimizer"] for s in view.data["steps"]] == [1, 0] * 3


@pytest.mark.parametrize("given", ["names", "lists", "the same model"])
def test_two_networks_are_called_as_the_program_calls_them(seed, given):
    tt.manual_seed(seed)
    maker, judge = net(), net()
    makes, judges = optim.SGD(maker.parameters(), lr=0.01), optim.SGD(judge.parameters(), lr=0.01)
    if given == "names":
        view = look.step({"judge": judge, "maker": maker}, {"makes": makes, "judges": judges})
        called, optimizers, short = ("judge.", "maker."), ["makes (SGD)", "judges (SGD)"], ("makes", "judges")
    elif given == "lists":
        view = look.step([judge, maker], [makes, judges])
        called, short = ("Sequential 1: ", "Sequential 2: "), ("SGD of Sequential 2", "SGD of Sequential 1")
        optimizers = list(short)
    else:  # two optimizers of one model
        maker = judge = net()
        makes = optim.SGD(maker[0].parameters(), lr=0.01)
        judges = optim.SGD(maker[2].parameters(), lr=0.01)
        view = look.step(maker, [makes, judges])
        called, optimizers, short = ("",), ["SGD 1", "SGD 2"], ("SGD 1", "SGD 2")
    with view:
        for k in range(5):
            for model, optimizer in ((maker, makes), (judge, judges))[:1 if k == 4 else 2]:
                maker.zero_grad()
                judge.zero_grad()
                model(batch(seed)).square().mean().backward()
                optimizer.step()
    d, text = view.data, " ".join(str(view).split())
    assert d["optimizers"] == optimizers
    own = [name for name, _ in net().named_parameters()]
    assert [p["name"] for p in d["parameters"]] == [prefix + name for prefix in called for name in own]
    assert f"9 steps (5 by {short[0]}, 4 by {short[1]}, numbered together)" in text
    assert text.count("norm over step, numbered over all optimizers") == 2
    assert [s["optimizer"] for s in d["steps"]] == [0, 1] * 4 + [0]


def test_nothing_ran_inside_the_block(made):
    model, optimizer, x = made
    loss_of(model, x).backward()  # .grad is there, of before
    with look.step(model, optimizer) as view:
        pass
    assert {p["state"] for p in view.data["parameters"]} == {"not known"} and view.data["findings"] == []
    text = " ".join(str(view).split())
    assert "0 steps, 0 backward, no step to judge" in text and "no pitfall" not in text
    assert "no backward() ran: the states of the parameters are not known" in text and "trained" not in text
    with look.step(model, optimizer) as view:
        loss_of(model, x).backward()
    text = " ".join(str(view).split())
    assert {p["state"] for p in view.data["parameters"]} == {"trained"} and "no step to judge" in text
    assert "states of the parameters are not known" not in text


def test_tied_weights_and_groups_with_their_own_rates(seed):
    tt.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    model[2].weight = model[0].weight
    optimizer = optim.AdamW([{"params": [model[0].weight]}, {"params": [model[0].bias, model[2].bias], "lr": 0.1}],
                            lr=0.01)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, batch(seed))
    assert view.data["findings"] == [] and view.data["steps"][0]["lr"] == [0.01, 0.1]
    assert [(p["name"], p["reached"]) for p in view.data["parameters"]] == [("0.weight", 3), ("0.bias", 3),
                                                                            ("2.bias", 3)]


# old, lost and doubled gradients


def test_zero_grad_forgotten(made):
    model, optimizer, x = made
    expected = []
    with look.step(model, optimizer) as view:
        for _ in range(4):
            old = together(model) if model[0].weight.grad is not None else None
            new = [host(g) for g in tt.autograd.grad(loss_of(model, x), list(model.parameters()))]
            loss_of(model, x).backward()
            optimizer.step()
            expected.append((old, math.hypot(*[np.linalg.norm(g) for g in new])))
    found = finding(view, "zero_grad")
    assert kinds(view) == ["zero_grad"] and found["steps"] == [2, 3, 4] and found["level"] == "pitfall"
    assert found["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert found["measured"]["old"] == pytest.approx(expected[-1][0], rel=1e-5)
    assert found["measured"]["new"] == pytest.approx(expected[-1][1], rel=1e-5)
    assert found["where"]["source"] == "loss_of(model, x).backward()"
    assert found["where"]["file"] == __file__ and found["why"] and found["mend"]


def test_zero_grad_of_one_group_alone(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for _ in range(2):
            loss_of(model, x).backward()
            optimizer.step()
            model[0].zero_grad()
    assert finding(view, "zero_grad")["parameters"] == ["2.weight", "2.bias"]


def test_gradients_accumulated_over_steps_of_old_ones(made):
    """Micro-batches do not hide it: the first of them met what the step before had used."""
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for _ in range(2):
            for _ in range(3):
                loss_of(model, x).backward()
            optimizer.step()
    assert kinds(view) == ["zero_grad"] and finding(view, "zero_grad")["steps"] == [2]


def test_a_gradient_that_is_kept_on_purpose(made):
    """Whoever writes into .grad between step and backward means it."""
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for _ in range(3):
            loss_of(model, x).backward()
            optimizer.step()
            for p in model.parameters():
                p.grad.mul_(0.5)
    assert kinds(view) == []


def test_a_layer_that_keeps_an_old_gradient(made):
    """What no backward reached any more is stepped along an old gradient."""
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for k in range(3):
            (loss_of(model, x) if k == 0 else model[0](x).mean()).backward()
            optimizer.step()
            model[0].zero_grad()
    assert finding(view, "zero_grad")["parameters"] == ["2.weight", "2.bias"]
    assert finding(view, "zero_grad")["steps"] == [2, 3]


def test_step_twice(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        loss_of(model, x).backward()
        optimizer.step()
        optimizer.step()
    assert kinds(view) == ["again"] and finding(view, "again")["steps"] == [2]
    assert finding(view, "again")["measured"]["norm"] == pytest.approx(together(model), rel=1e-5)


def test_step_before_backward(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            optimizer.step()
            loss.backward()
    assert set(kinds(view)) == {"no_gradient", "cleared"}
    assert finding(view, "no_gradient")["steps"] == [1] and finding(view, "cleared")["steps"] == [2, 3]


@pytest.mark.parametrize("none", [True, False])
def test_zero_grad_between_backward_and_step(made, none):
    model, optimizer, x = made
    loss_of(model, x).backward()
    expected = together(model)
    optimizer.zero_grad(none)
    with look.step(model, optimizer) as view:
        loss_of(model, x).backward()
        optimizer.zero_grad(none)
        optimizer.step()
    assert kinds(view) == ["cleared"]
    assert finding(view, "cleared")["measured"]["norm"] == pytest.approx(expected, rel=1e-5)
    assert finding(view, "cleared")["where"]["source"] == "optimizer.step()"


def test_backward_twice(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        loss = loss_of(model, x)
        loss.backward(retain_graph=True)
        single = together(model)
        loss.backward()
        optimizer.step()
    found = finding(view, "twice")
    assert kinds(view) == ["twice"] and found["parameters"] == ["loss"]
    assert found["measured"]["norm"] == pytest.approx(single, rel=1e-5)
    assert found["where"]["source"] == "loss.backward()"
    assert view.data["steps"][0]["norm"] == pytest.approx(2 * single, rel=1e-5)


# graphs that survive


class Trainer:
    def __init__(self):
        self.losses = []
        self.last = None


def test_a_sum_of_losses_keeps_every_graph(made):
    model, optimizer, x = made
    total = 0
    with look.step(model, optimizer) as view:
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            optimizer.step()
            total += loss
    found = finding(view, "survives")
    assert kinds(view) == ["survives"] and found["level"] == "pitfall" and found["steps"] == [1, 2, 3]
    assert found["measured"]["graphs"] == 3
    holder = found["measured"]["holder"][0]
    assert holder.startswith("`total` in test_a_sum_of_losses_keeps_every_graph(), ")
    assert holder.endswith("test_look_step.py")
    assert float(total) > 0


@pytest.mark.parametrize("scale", [False, True])
def test_losses_in_an_attribute(made, scale):
    model, optimizer, x = made
    trainer, scaler = Trainer(), GradScaler(x.device.type, init_scale=4.0, enabled=scale)
    with look.step(model, optimizer) as view:
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            trainer.losses.append(loss)
    found = finding(view, "survives")
    assert found["steps"] == [1, 2] and "`trainer`" in found["what"] and "a Trainer, .losses, list [" in found["what"]
    # each graph has Linear, Tanh, Linear, Pow and Mean
    assert found["measured"]["nodes"] == 2 * 5


def test_graphs_that_are_gone_when_the_block_ends(made):
    model, optimizer, x = made

    def train():
        total = 0
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            optimizer.step()
            total += loss

    with look.step(model, optimizer) as view:
        train()
    found = finding(view, "survives")
    assert found["steps"] == [1, 2, 3, 4] and "`total` in train()" in found["what"]
    assert found["measured"]["nodes"] == 4 * 5  # Linear, Tanh, Linear, Pow and Mean


def test_predictions_that_are_kept(made):
    model, optimizer, x = made
    kept = []
    with look.step(model, optimizer) as view:
        for _ in range(3):
            optimizer.zero_grad()
            out = model(x)
            kept.append(out)
            out.square().mean().backward()
            optimizer.step()
    assert finding(view, "survives")["steps"] == [1, 2] and "`kept`" in finding(view, "survives")["what"]


def test_one_graph_that_is_kept_is_a_note(made):
    model, optimizer, x = made
    trainer = Trainer()
    with look.step(model, optimizer) as view:
        for k in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            optimizer.step()
            if k == 1:
                trainer.last = loss
    found = finding(view, "survives")
    assert kinds(view) == ["survives"] and found["level"] == "note" and found["steps"] == [2]
    assert "a Trainer, .last" in found["what"]


def test_a_part_that_all_steps_share_counts_once(made):
    """What was computed once, and is kept by retain_graph=True, does not grow."""
    model, optimizer, x = made
    features = model[0](x)
    with look.step(model, optimizer) as view:
        for _ in range(4):
            model.zero_grad()
            model[2](features).square().mean().backward(retain_graph=True)
            optimizer.step()
    assert kinds(view) == ["survives"] and finding(view, "survives")["level"] == "note"


def test_graphs_that_only_garbage_holds(made):
    model, optimizer, x = made
    gc.disable()
    try:
        with look.step(model, optimizer) as view:
            for _ in range(3):
                optimizer.zero_grad()
                loss = loss_of(model, x)
                ring = [loss]
                ring.append(ring)
                loss.backward()
                optimizer.step()
    finally:
        gc.enable()
    assert kinds(view) == []


# parameters


class Branches(nn.Module):
    """One layer that is used, one that is not called, one whose result is cut off, one under no_grad()."""

    def __init__(self):
        super().__init__()
        self.used, self.idle, self.cut, self.quiet = (nn.Linear(5, 5) for _ in range(4))

    def forward(self, x):
        with tt.no_grad():
            quiet = self.quiet(x)
        return self.used(x) + self.cut(x).detach() + quiet


def test_parameters_that_no_gradient_reaches(seed):
    model = Branches()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, batch(seed))
    found = {f["parameters"][0]: f for f in view.data["findings"]}
    assert set(kinds(view)) == {"never_reached"} and set(found) == {"idle.weight", "cut.weight", "quiet.weight"}
    assert "the module was not called" in found["idle.weight"]["what"]
    assert "the path from it to the loss is cut" in found["cut.weight"]["what"]
    assert "under no_grad() only" in found["quiet.weight"]["what"]
    assert {p["name"]: p["state"] for p in view.data["parameters"]}["used.bias"] == "trained"


def test_frozen_is_no_finding_and_is_told(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        frozen(model, optimizer, x)
    assert [p["state"] for p in view.data["parameters"]] == ["frozen", "frozen", "trained", "trained"]


def test_parameters_that_no_optimizer_has(made):
    model, _, x = made
    head = optim.SGD(model[2].parameters(), lr=0.1)
    with look.step(model, head) as view:
        plain(model, head, x)
    found = finding(view, "not_in_optimizer")
    assert kinds(view) == ["not_in_optimizer"] and found["parameters"] == ["0.weight", "0.bias"]
    assert found["measured"]["reached"] == ["0.weight", "0.bias"]
    model[0].requires_grad_(False)
    with look.step(model, head) as view:
        plain(model, head, x)
    assert kinds(view) == []
    model[0].requires_grad_(True)
    other = optim.SGD(model[0].parameters(), lr=0.1)  # found as it steps
    with look.step(model, head) as view:
        for _ in range(2):
            model.zero_grad()
            loss_of(model, x).backward()
            head.step()
            other.step()
    assert kinds(view) == [] and view.data["optimizers"] == ["SGD 1", "SGD 2"]


def test_an_optimizer_of_parameters_that_were_replaced(made):
    model, optimizer, x = made
    model[2] = nn.Linear(7, 2)
    with look.step(model, optimizer) as view:
        for _ in range(2):
            model.zero_grad()
            loss_of(model, x).backward()
            optimizer.step()
    assert sorted(kinds(view)) == ["not_in_model", "not_in_optimizer"]
    assert "of shapes [3, 7], [3]" in finding(view, "not_in_model")["what"]
    assert finding(view, "not_in_optimizer")["parameters"] == ["2.weight", "2.bias"]


def test_an_optimizer_of_two_models_given_one(made):
    """Parameters that are elsewhere, and trained, are no finding."""
    model, _, x = made
    other = nn.Linear(3, 1)
    optimizer = optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    with look.step(model, optimizer) as view:
        for _ in range(2):
            optimizer.zero_grad()
            other(model(x)).mean().backward()
            optimizer.step()
    assert kinds(view) == []


def test_a_parameter_twice(made):
    model, optimizer, x = made
    second = optim.SGD(model[0].parameters(), lr=0.1)
    with look.step(model, [optimizer, second]) as view:
        pass
    assert finding(view, "twice_there")["parameters"] == ["0.weight", "0.bias"]
    optimizer.param_groups[0]["params"].append(model[2].bias)
    with look.step(model, optimizer) as view:
        pass
    assert finding(view, "twice_there")["parameters"] == ["2.bias"]


# losses that meet


def of_torch(torch, model, x, terms):
    """Norms of each term's gradients by PyTorch, for the same weights."""
    twin = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    with torch.no_grad():
        for p, q in zip(twin.parameters(), model.parameters()):
            p.copy_(torch.tensor(host(q)))
    names = [name for name, _ in model.named_parameters()]
    out, found = twin(torch.tensor(host(x), dtype=torch.float32)), []
    for term in terms:
        grads = torch.autograd.grad(term(out), list(twin.parameters()), retain_graph=True)
        found.append({n: g.double().numpy() for n, g in zip(names, grads)})
    return found


def norms_of(grads):
    return {n: pytest.approx(float(np.linalg.norm(g)), rel=1e-4) for n, g in grads.items()}


def cosine_of(a, b):
    a, b = (np.concatenate([g.ravel() for g in grads.values()]) for grads in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


TERMS = [lambda out: (out * out).mean(), lambda out: 0.1 * abs(out).sum()]


@pytest.mark.parametrize("way", ["two backwards", "a sum", "two roots", "a stack", "a scaled sum"])
def test_each_loss_has_its_gradients(made, torch, way):
    model, optimizer, x = made
    expected = of_torch(torch, model, x, TERMS)
    if way == "a stack":
        expected = [{n: g / 2 for n, g in grads.items()} for grads in expected]
    scaler = GradScaler(x.device.type, init_scale=64.0, enabled=way == "a scaled sum")
    with look.step(model, optimizer) as view:
        out = model(x)
        first, second = TERMS[0](out), TERMS[1](out)
        if way == "two backwards":
            first.backward(retain_graph=True)
            second.backward()
        elif way == "two roots":
            tt.autograd.backward([first, second])
        elif way == "a stack":
            tt.stack([first, second]).mean().backward()
        else:
            scaler.scale(first + second).backward()
        scaler.step(optimizer)
    assert kinds(view) == []
    assert {x["name"]: x["parameters"] for x in view.data["losses"]} == {
        "first": norms_of(expected[0]), "second": norms_of(expected[1])}
    meeting, = view.data["meetings"]
    assert meeting["parameters"] == 4 and meeting["steps"] == 1
    assert meeting["cosine"] == pytest.approx(cosine_of(*expected), abs=1e-3)
    assert [x["norm"] for x in meeting["losses"]] == [
        pytest.approx(math.hypot(*[np.linalg.norm(g) for g in grads.values()]), rel=1e-4) for grads in expected]
    assert "first" in str(view) and "meet in 4 parameters" in " ".join(str(view).split())


def test_weighted_terms_and_given_gradients(made, torch):
    model, optimizer, x = made
    expected = of_torch(torch, model, x, TERMS)
    with look.step(model, optimizer) as view:
        out = model(x)
        first, second = TERMS[0](out), TERMS[1](out)
        loss = (3 * first - second / 2) * 2
        loss.backward(tt.tensor(5.0))
        optimizer.step()
    found = {x["name"]: x["parameters"] for x in view.data["losses"]}
    assert found == {"first": norms_of({n: 30 * g for n, g in expected[0].items()}),
                     "second": norms_of({n: 5 * g for n, g in expected[1].items()})}


def test_terms_are_measured_as_often_as_asked(made):
    model, optimizer, x = made
    for apart, times in ((0, 0), (1, 5), (3, 2), (10, 1)):
        with look.step(model, optimizer, apart=apart) as view:
            for _ in range(5):
                optimizer.zero_grad()
                out = model(x)
                (out.mean() + out.square().mean()).backward()
                optimizer.step()
        assert sum(m["steps"] for m in view.data["meetings"]) == times, apart


def test_a_sum_that_cannot_be_told_apart_says_why(made):
    model, optimizer, x = made

    def sums(out):
        return out.mean() + out.square().mean()

    seen = []
    handle = model[0].weight.register_hook(lambda g: seen.append(1))
    with look.step(model, optimizer) as view:
        sums(model(x)).backward()
        optimizer.step()
    assert "hooks on tensors" in " ".join(view.data["missing"]) and len(seen) == 1 and not view.data["meetings"]
    handle.remove()
    with look.record(), look.step(model, optimizer) as view:
        sums(model(x)).backward()
    assert "look.record() has some" in " ".join(view.data["missing"])
    runs = []
    with look.step(model, optimizer) as view:
        sums(checkpoint(lambda v: runs.append(1) or model(v), x)).backward()
    assert "checkpoint" in " ".join(view.data["missing"]) and len(runs) == 2


def test_a_loss_that_is_drowned(made):
    model, optimizer, x = made
    for weight, expected in ((1e-2, []), (1e-6, ["drowned"])):
        with look.step(model, optimizer) as view:
            optimizer.zero_grad()
            out = model(x)
            task, penalty = out.square().mean(), out.abs().mean()
            (task + weight * penalty).backward()
            optimizer.step()
        assert kinds(view) == expected
    found = finding(view, "drowned")
    assert found["level"] == "note" and found["measured"]["small"]["name"] == "penalty"
    assert found["measured"]["large"]["name"] == "task"


# clipping


def test_norms_before_and_after_clipping(made):
    model, optimizer, x = made
    expected = []
    with look.step(model, optimizer, percentile=75) as view:
        for k in range(6):
            optimizer.zero_grad()
            (loss_of(model, x) * (k + 1)).backward()
            before = together(model)
            clip_grad_norm_(model.parameters(), 0.3)
            expected.append((before, together(model)))
            optimizer.step()
    steps, c = view.data["steps"], view.data["clipping"]
    assert [s["unclipped"] for s in steps] == [pytest.approx(b, rel=1e-5) for b, _ in expected]
    assert [s["norm"] for s in steps] == [pytest.approx(a, rel=1e-4) for _, a in expected]
    assert c["steps"] == 6 and c["clipped"] == sum(b > 0.3 for b, _ in expected) and c["thresholds"] == [0.3]
    assert c["share"] == c["clipped"] / 6
    assert c["suggested"] == pytest.approx(float(np.percentile([b for b, _ in expected], 75)), rel=1e-5)
    assert c["share_suggested"] == sum(b > c["suggested"] * (1 + 1e-6) for b, _ in expected) / 6
    assert steps[0]["clips"][0]["function"] == "clip_grad_norm_"
    assert steps[0]["clips"][0]["line"]["source"] == "clip_grad_norm_(model.parameters(), 0.3)"
    assert kinds(view) == []


def test_a_threshold_twice_as_high_clips_other_steps_alone(seed):
    shares = []
    for threshold in (1.0, 2.0, 4.0, 8.0):
        model = nn.Linear(2, 1, bias=False)
        optimizer = optim.SGD(model.parameters(), lr=1e-9)
        with look.step(model, optimizer) as view:
            for size in (0.5, 1.5, 3.0, 6.0):
                optimizer.zero_grad()
                (model(tt.tensor([[size, 0.0]])).sum()).backward()  # a gradient of this norm
                utils.clip_grad_norm_(model.parameters(), threshold)
                optimizer.step()
        assert [s["unclipped"] for s in view.data["steps"]] == pytest.approx([0.5, 1.5, 3, 6])
        assert [s["norm"] for s in view.data["steps"]] == pytest.approx(
            [min(n, threshold) for n in (0.5, 1.5, 3, 6)], rel=1e-4)
        shares.append(view.data["clipping"]["share"])
    assert shares == [0.75, 0.5, 0.25, 0.0]


def test_other_ways_to_clip(made):
    model, optimizer, x = made
    parameters = list(model.parameters())
    ways = [lambda: clip_grad_value_(parameters, 0.01), lambda: clip_grad_norm_(parameters, 0.01, math.inf),
            lambda: clip_grad_norm_(parameters, 0.01, 1.0),
            lambda: clip_grads_with_norm_(parameters, 0.01, get_total_norm([p.grad for p in parameters]))]
    sizes = []
    with look.step(model, optimizer) as view:
        for way in ways:
            optimizer.zero_grad()
            loss_of(model, x).backward()
            sizes.append(np.concatenate([host(p.grad).ravel() for p in parameters]))
            way()
            optimizer.step()
    clips = [s["clips"][0] for s in view.data["steps"]]
    assert [c["function"] for c in clips] == ["clip_grad_value_", "clip_grad_norm_", "clip_grad_norm_",
                                              "clip_grads_with_norm_"]
    orders = [math.inf, math.inf, 1, 2]
    assert [c["norm"] for c in clips] == [pytest.approx(float(np.linalg.norm(s, p)), rel=1e-5)
                                          for s, p in zip(sizes, orders)]
    assert [c["norm_type"] for c in clips] == [math.inf, math.inf, 1.0, None] and all(c["active"] for c in clips)
    assert view.data["clipping"]["suggested"] is None  # the norms are of several kinds


def test_without_clipping_the_norms_suggest_a_threshold(made):
    model, optimizer, x = made
    norms = []
    with look.step(model, optimizer) as view:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model, x).backward()
            norms.append(together(model))
            optimizer.step()
    c = view.data["clipping"]
    assert c["steps"] == c["clipped"] == 0 and c["share"] is None
    assert c["suggested"] == pytest.approx(float(np.percentile(norms, 90)), rel=1e-5)


def test_clipping_that_does_nothing(made):
    model, optimizer, x = made
    used_up = model.parameters()
    list(used_up)
    with look.step(model, optimizer) as view:
        clip_grad_norm_(model.parameters(), 1.0)
        loss_of(model, x).backward()
        clip_grad_norm_(used_up, 1.0)
        optimizer.step()
        clip_grad_norm_(model.parameters(), 1.0)
    assert sorted(kinds(view)) == ["clip_empty", "clip_late", "clip_nothing"]
    assert finding(view, "clip_nothing")["where"]["source"] == "clip_grad_norm_(used_up, 1.0)"
    with look.step(model, optimizer) as view:  # of another model
        clip_grad_norm_(net().parameters(), 1.0)
    assert kinds(view) == []


# the gradient scaler


def test_clipping_scaled_gradients(made):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=1024.0)
    loss_of(model, x).backward()
    true = together(model)
    optimizer.zero_grad()
    with look.step(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
    found = finding(view, "clip_scaled")
    assert kinds(view) == ["clip_scaled"] and found["measured"]["scale"] == 1024
    assert found["measured"]["norm"] == pytest.approx(1024 * true, rel=1e-4)
    assert found["where"]["source"] == "clip_grad_norm_(model.parameters(), 1.0)"


@pytest.mark.parametrize("clip", [False, True])
def test_stepping_scaled_gradients(made, clip):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=1024.0)
    with look.step(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        if clip:
            clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
    assert kinds(view) == [*(["clip_scaled"] if clip else []), "step_scaled"]
    assert finding(view, "step_scaled")["measured"]["scale"] == 1024


def test_scaled_gradients_on_unscaled_ones(made):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=1024.0)
    with look.step(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        scaler.unscale_(optimizer)
        scaler.scale(loss_of(model, x)).backward()
        scaler.step(optimizer)
    assert "mixed" in kinds(view) and finding(view, "mixed")["measured"]["scale"] == 1024


class Plain(optim.Optimizer):
    """An optimizer of a user, which does not know of scalers."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01})

    def step(self, closure=None):
        with tt.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(p.grad * group["lr"])


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.01), Plain], ids=["SGD", "a user's"])
def test_steps_that_the_scaler_skips(seed, make):
    model = net()
    optimizer = make(model.parameters())
    for factors, level in (((1.0, math.inf, 1.0), "note"), ((math.inf,) * 3, "pitfall")):
        scaler = GradScaler(model[0].weight.device.type, init_scale=2.0**20)
        with look.step(model, optimizer) as view, np.errstate(invalid="ignore"):
            for factor in factors:
                optimizer.zero_grad()
                out = model(batch(seed)).square().mean()
                out.register_hook(lambda g, factor=factor: g * factor)  # the loss is finite, its gradients are not
                scaler.scale(out).backward()
                scaler.step(optimizer)
                scaler.update()
        found = finding(view, "skipped")
        assert kinds(view) == ["skipped"] and found["level"] == level
        assert found["steps"] == [k + 1 for k, f in enumerate(factors) if math.isinf(f)]
        assert [s["skipped"] for s in view.data["steps"]] == [math.isinf(f) for f in factors]
        assert "2.weight" in found["parameters"]
    assert "scale was lowered again and again" in found["why"]


def scaled_steps(seed, scale, most, steps, clip=None):
    """Steps whose gradients overflow where the loss scale is above `most`; the view, and the scale of each step."""
    model = net()
    optimizer, scaler = optim.SGD(model.parameters(), lr=0.01), GradScaler(model[0].weight.device.type, scale)
    scales = []
    with look.step(model, optimizer) as view, np.errstate(invalid="ignore"):
        for _ in range(steps):
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
            loss = model(batch(seed)).square().mean()
            loss.register_hook(lambda g: g * (math.inf if scales[-1] > most else 1.0))
            scaler.scale(loss).backward()
            if clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
    return view, scales


@pytest.mark.parametrize("high, least, steps, level, why", [
    (24, 19, 12, "note", "the scaler lowers it and goes on"),  # 24 to 20 are skipped, then it has found its scale
    (24, 19, 6, "note", "the scaler lowers it and goes on"),  # one good step says as much
    (24, 19, 5, "pitfall", "lowered again and again, and the gradients are still not finite"),
    (24, 19, 2, "note", "the scaler lowers it and goes on"),
    (3, -1, 12, "pitfall", "it is not the scale"),  # they overflow at a scale of 1 too
    (0, -1, 2, "pitfall", "it is not the scale"), (1, 0, 2, "note", "the scaler lowers it and goes on"),
])
def test_a_scaler_that_finds_its_scale(seed, high, least, steps, level, why):
    view, scales = scaled_steps(seed, 2.0**high, 2.0**least, steps)
    found = finding(view, "skipped")
    skipped = [k for k, s in enumerate(scales) if s > 2.0**least]
    assert scales[:len(skipped)] == [2.0 ** (high - k) for k in skipped] and len(skipped) == min(high - least, steps)
    assert (found["level"], found["steps"]) == (level, [k + 1 for k in skipped]) and why in found["why"]
    assert found["measured"] == {"longest": len(skipped), "open": len(skipped) if steps <= high - least else 0,
                                 "scales": [scales[k] for k in skipped]}
    assert ("no pitfall found, 1 note" if level == "note" else "1 pitfall") in " ".join(str(view).split())
    if (high, steps) == (24, 12):
        assert "steps 1 to 5 skipped by the gradient scaler, 5 in a row, at the scales 1.68e+07 to 1.05e+06" in found[
            "what"]


@pytest.mark.parametrize("clip, clipped", [(1e-6, 7), (1e6, 0)])
def test_a_skipped_step_is_not_clipped(seed, clip, clipped):
    view, scales = scaled_steps(seed, 2.0**24, 2.0**19, 12, clip)
    c = view.data["clipping"]
    assert (c["steps"], c["skipped"], c["clipped"], c["share"], len(c["norms"])) == (7, 5, clipped, clipped / 7, 7)
    assert f"clipped: {clipped} of 7 steps ({clipped / 7:.0%}) at {clip:g}; 5 skipped steps not counted" in str(view)


def test_a_loss_that_is_not_finite(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for k in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, x) * (float("nan") if k == 1 else 1.0)
            loss.backward()
            if k != 1:
                optimizer.step()
    found = finding(view, "loss")
    assert found["parameters"] == ["loss"] and math.isnan(found["measured"]["value"])
    assert "step 2: the loss of `loss` was nan" in found["what"]
    assert found["where"]["source"] == "loss.backward()" and "look.nan" in found["mend"]


def test_a_scaled_loss_that_overflows_is_the_scalers_business(made):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=2.0**127)
    with look.step(model, optimizer) as view, np.errstate(all="ignore"):
        scaler.scale(loss_of(model, x) * 100).backward()
        scaler.step(optimizer)
    assert kinds(view) == ["skipped"] and view.data["steps"][0]["backwards"][0]["values"][0] < 1e4


# rates and modes


def test_a_learning_rate_of_zero(made):
    model, _, x = made
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}], lr=0.1)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, x)
    found = finding(view, "lr_zero")
    assert kinds(view) == ["lr_zero"] and found["parameters"] == ["0.weight", "0.bias"] and "group 0" in found["what"]


def modal():
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.2), nn.Linear(7, 3))


def test_training_in_eval_mode(seed):
    model = modal()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    x = batch(seed)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, x)
        model.eval()
        with tt.no_grad():
            model(x)
        plain(model, optimizer, x)
    found = finding(view, "eval")
    assert kinds(view) == ["eval"] and found["steps"] == [4, 5, 6]
    assert found["parameters"] == ["1 (BatchNorm1d)", "2 (Dropout)"]


def test_a_part_in_eval_mode_is_meant(seed):
    model = modal()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    model[1].eval()
    with look.step(model, optimizer) as view:
        plain(model, optimizer, batch(seed))
    assert kinds(view) == []


def test_another_model_in_eval_mode_is_meant(seed):
    """A judge in eval mode while the maker trains: the step does not train the judge."""
    maker, judge = nn.Linear(5, 5), modal()
    optimizers = [optim.SGD(m.parameters(), lr=0.01) for m in (maker, judge)]
    judge.eval()
    with look.step([maker, judge], optimizers) as view:
        for _ in range(2):
            optimizers[0].zero_grad()
            judge(maker(batch(seed))).mean().backward()
            optimizers[0].step()
    assert kinds(view) == []


def test_a_gradient_in_eval_mode_that_no_step_uses(seed):
    """As a map of what the model looks at."""
    model = modal()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, batch(seed))
        model.eval()
        x = batch(seed).requires_grad_()
        model(x).sum().backward(inputs=[x])
        model.train()
        plain(model, optimizer, batch(seed))
    assert kinds(view) == []


def test_validation_in_train_mode_is_a_note(seed):
    model = modal()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, batch(seed))
        with tt.no_grad():
            model(batch(seed))
    found = finding(view, "train_forward")
    assert found["level"] == "note" and found["measured"]["count"] == 1
    plain_model = net()
    with look.step(plain_model, optim.SGD(plain_model.parameters(), lr=0.1)) as view, tt.no_grad():
        plain_model(batch(seed))
    assert kinds(view) == []  # nothing in it knows of modes


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


def test_a_step_that_raises_is_no_step(made):
    model, optimizer, x = made

    def closure():
        raise KeyError("data")

    with look.step(model, optimizer) as view:
        with contextlib.suppress(KeyError):
            optimizer.step(closure)
        plain(model, optimizer, x)
    assert len(view.data["steps"]) == 3 and kinds(view) == []


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


# the view


@pytest.fixture(scope="module")
def view():
    tt.manual_seed(1)
    model = modal()
    model.add_module("idle", nn.Identity())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    total = 0
    with look.step(model, optimizer) as found:
        for k in range(12):
            out = model(batch(k, 8))
            task = out.square().mean()
            penalty = out.abs().mean() * 1e-6
            (task + penalty).backward()
            clip_grad_norm_(model.parameters(), 0.4)
            optimizer.step()
            total += task
    return found


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_lines_fit_the_width_in_every_encoding(view, width, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    view.print(stream, width)
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert max(map(len, text.splitlines())) <= width
    assert ("─" in text) == (encoding == "utf-8")
    flat = " ".join(text.split())
    if width >= 60:
        for words in ("2 pitfalls, 1 note", "zero_grad() is missing", "held by `total` in", "(note)", "where: ",
                      "why: ", "mend: ", "norm of the gradient, SGD", "before clipping", "clipped: "):
            assert words in flat, words


def test_files(view, tmp_path):
    root = ElementTree.fromstring(view.save(tmp_path / "s.svg").read_text(encoding="utf-8"))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "before clipping" in texts and "threshold" in texts and "percentile 90" in texts
    page = view.save(tmp_path / "s.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page

    class Reader(html.parser.HTMLParser):
        open: list = []

        def handle_starttag(self, tag, attrs):
            self.open += [] if tag in ("meta", "br") else [tag]

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(page)
    assert not reader.open and "zero_grad() is missing" in page and "<svg" in page
    assert json.loads(view.save(tmp_path / "s.json").read_text(encoding="utf-8")) == view.data
    assert view.save(tmp_path / "s.txt").read_text(encoding="utf-8") == str(view) + "\n"
    assert "iframe" in view._repr_html_() and repr(view) == "<look.step: 12 steps, 2 pitfalls, 1 note>"


def test_png(view, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'tinytorch-gpu[viz]'")
    assert view.save(tmp_path / "s.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_view_while_it_watches(made):
    model, optimizer, x = made
    found = look.step(model, optimizer)
    assert "nothing was watched" in str(found) and "nothing was watched" in found.to_html()
    assert {p["state"] for p in found.data["parameters"]} == {"not known"}
    with pytest.raises(ValueError, match=r"\[save\] there is nothing to draw"):
        found.to_svg()
    with found:
        assert "no optimizer of this model stepped" in str(found)
        for k in (1, 2):
            loss_of(model, x).backward()
            optimizer.step()
            assert len(found.data["steps"]) == k and f"{k} step" in str(found) and "so far" in str(found)
        assert kinds(found) == ["zero_grad"]
    assert kinds(found) == ["zero_grad"]
    with pytest.raises(RuntimeError, match=r"\[step\] a view watches one block"), found:
        pass


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
        outer.broken = False
        plain(model, outer, x)
        plain(model, optimizer, x)
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


# bad input


@pytest.mark.parametrize("given, error, message", [
    ((None,), TypeError, "expected a Module, a list or a dictionary of them, got NoneType"),
    (([net(), 3],), TypeError, "expected a Module, a list or a dictionary of them, got int"),
    (({"a": net(), 3: net()},), TypeError, "names of a dictionary must be strings, got 3"),
    ((net(), {"a": 3}), TypeError, "expected an Optimizer, a list or a dictionary of them, got int"),
    ((net(), "SGD"), TypeError, "expected an Optimizer, a list or a dictionary of them, got str"),
    ((nn.ReLU(),), ValueError, "ReLU has no parameters: there is nothing to train"),
    (([],), ValueError, "an empty list has no parameters"),
])
def test_bad_input(given, error, message):
    with pytest.raises(error, match=rf"\[step\] {message}"):
        look.step(*given)


@pytest.mark.parametrize("options", [{"percentile": 0}, {"percentile": 101}, {"percentile": "90"}, {"percentile": True},
                                     {"apart": -1}, {"apart": 1.5}, {"apart": True}])
def test_bad_numbers(options):
    name, = options
    with pytest.raises(ValueError, match=rf"\[step\] {name} must be"):
        look.step(net(), **options)
