"""look.step: losses whose gradients meet in the same parameters; each one's own against PyTorch."""
from __future__ import annotations

import math

import numpy as np
import pytest
from step_program import finding, host, kinds, loss_of, program, scaler_of

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.nn.utils import clip_grad_norm_
from tinytorch_gpu.utils.checkpoint import checkpoint

made = pytest.fixture(program)


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


@pytest.mark.parametrize("way", ["two backwards", "a sum", "two roots", "a stack", "a scaled sum",
                                 "a sum of scaled ones", "a scaled list"])
def test_each_loss_has_its_gradients(made, torch, way):
    model, optimizer, x = made
    expected = of_torch(torch, model, x, TERMS)
    if way == "a stack":
        expected = [{n: g / 2 for n, g in grads.items()} for grads in expected]
    scaler = scaler_of(x, 64.0, enabled="scaled" in way)
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
        elif way == "a sum of scaled ones":
            (scaler.scale(first) + scaler.scale(second)).backward()
        elif way == "a scaled list":
            tt.autograd.backward(scaler.scale([first, second]))
        else:
            scaler.scale((first + second).sum()).backward()
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


@pytest.mark.parametrize("terms, told", [(1, 0), (2, 2), (8, 8), (9, 0)])
def test_two_to_eight_terms_are_told_apart(made, terms, told):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        out = model(x)
        sum([(out * (k + 1)).square().mean() for k in range(terms)][1:], out.square().mean()).backward()
        optimizer.step()
    assert len([loss for loss in view.data["losses"] if loss["met"]]) == told
    assert len({loss["name"] for loss in view.data["losses"]}) == (told or 1)


def test_a_mean_of_a_sum_of_arrays_is_one_loss(made):
    model, optimizer, x = made
    handle = model[0].weight.register_hook(lambda g: None)  # a pass of its own would say that it cannot
    with look.step(model, optimizer) as view:
        loss = (model(x) + model(-x)).mean()
        loss.backward()
        optimizer.step()
    handle.remove()
    found, = view.data["losses"]
    assert found["name"] == "loss" and not found["met"] and found["parameters"] == {}
    assert view.data["missing"] == [] and view.data["meetings"] == []


def test_terms_have_the_lines_that_made_them(made):
    model, optimizer, x = made
    with tt.autograd.set_detect_anomaly(True), look.step(model, optimizer) as view:
        out = model(x)
        first = out.mean()
        second = out.square().mean()
        (first + second).backward()
        optimizer.step()
    assert [loss["line"]["source"] for loss in view.data["losses"]] == ["first = out.mean()",
                                                                        "second = out.square().mean()"]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(5, 4), nn.Linear(4, 1), nn.Linear(4, 1)


def test_losses_meet_where_they_share_parameters(made):
    _, _, x = made
    model = Heads()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for together in (True, False):
        optimizer.zero_grad()
        with look.step(model, optimizer) as view:
            h = model.trunk(x) if together else tt.ones(2, 4)
            left, right = model.left(h).mean(), model.right(h).square().mean()
            (left + right).backward()
            optimizer.step()
        text = str(view)
        assert [m["parameters"] for m in view.data["meetings"]] == [2] * together
        table = text[text.index("gradients that meet"):text.index("parameter  ")] if together else ""
        assert ("trunk.weight" in table) == together and "left.weight" not in table
        assert {loss["name"]: set(loss["parameters"]) for loss in view.data["losses"] if loss["met"]} == ({
            "left": {"trunk.weight", "trunk.bias", "left.weight", "left.bias"},
            "right": {"trunk.weight", "trunk.bias", "right.weight", "right.bias"}} if together else {})


def slopes(vectors, clear=True, between=lambda model: None):
    """Steps of a linear model, each with two losses whose gradients are (1, 0) and a given vector."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = optim.SGD(model.parameters(), lr=1e-9)
    with look.step(model, optimizer) as view:
        for vector in vectors:
            if clear:
                optimizer.zero_grad()
            first = model(tt.tensor([[1.0, 0.0]])).sum()
            first.backward()
            between(model)
            second = model(tt.tensor([vector])).sum()
            second.backward()
            optimizer.step()
    return view


def test_the_cosine_of_several_steps_is_their_median():
    vectors = [[3.0, 4.0], [4.0, 3.0], [-3.0, 4.0]]
    meeting, = slopes(vectors).data["meetings"]
    assert meeting["steps"] == 3 and meeting["cosine"] == pytest.approx(0.6, abs=1e-5)


@pytest.mark.parametrize("size, known", [(999.0, True), (1001.0, False)])
def test_the_cosine_is_known_up_to_a_thousandfold(size, known):
    meeting, = slopes([[size, 0.0]]).data["meetings"]
    assert (meeting["cosine"] is not None) == known


def test_the_cosine_is_not_taken_from_sums_with_an_old_or_a_clipped_gradient():
    view = slopes([[3.0, 4.0], [-3.0, 4.0], [-3.0, 4.0]], clear=False)
    assert kinds(view) == ["zero_grad"]
    assert view.data["meetings"][0]["cosine"] == pytest.approx(0.6, abs=1e-5)  # of the first step alone
    clipped = slopes([[3.0, 4.0]], between=lambda model: clip_grad_norm_(model.parameters(), 1e-3))
    assert clipped.data["meetings"][0]["cosine"] is None and kinds(clipped) == []
    after = slopes([[3.0, 4.0]], between=lambda model: clip_grad_norm_(model.parameters(), 100.0))
    assert after.data["meetings"][0]["cosine"] is None  # nor where the threshold was not reached


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


class Double(tt.autograd.Function):
    ran: list = []

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        Double.ran.append(1)
        return grad * 2


def test_what_would_run_once_more_is_not_run(made):
    model, optimizer, x = made
    Double.ran.clear()
    with look.step(model, optimizer) as view:
        out = Double.apply(model(x))
        (out.mean() + out.square().mean()).backward()
        optimizer.step()
    assert "Function of the program" in " ".join(view.data["missing"]) and len(Double.ran) == 1
    seen = []
    weight = model[0].weight
    gathers = (weight * 1).grad_fn.next_functions[0][0]
    handle = gathers.register_prehook(lambda grads: seen.append(1))
    with look.step(model, optimizer) as view:
        out = model(x)
        (out.mean() + out.square().mean()).backward()
    handle.remove()
    assert "hooks on tensors" in " ".join(view.data["missing"]) and len(seen) == 1


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


@pytest.mark.parametrize("size, expected", [(999.0, []), (1001.0, ["drowned"]), (math.inf, [])])
def test_a_thousandfold_drowns(size, expected):
    assert [kind for kind in kinds(slopes([[size, 0.0]])) if kind != "loss"] == expected


def test_many_losses_have_one_sentence(made):
    """The sum over time steps: each two of them meet."""
    model, optimizer, x = made
    for count in (2, 3, 5):
        with look.step(model, optimizer, apart=1) as view:
            optimizer.zero_grad()
            parts = [loss_of(model, x) * (k + 1) for k in range(count)]
            tt.stack(parts).sum().backward()
            optimizer.step()
        meetings, text = view.data["meetings"], " ".join(str(view).split())
        assert len(meetings) == count * (count - 1) // 2
        norms = [m["norm"] for pair in meetings for m in pair["losses"]]
        assert max(norms) == pytest.approx(count * min(norms), rel=1e-4)  # the same loss, times 1 to count
        if count < 5:
            assert text.count(" meet in ") == len(meetings)
        else:
            assert f"5 losses meet in {len(list(model.parameters()))} parameters, by twos: " in text
            assert text.count(" meet in ") == 1
