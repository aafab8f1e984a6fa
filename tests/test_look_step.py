"""look.step: clean loops are clean, what the view says and is called, what it refuses."""
from __future__ import annotations

import contextlib
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from step_program import batch, finding, host, kinds, loss_of, modal, net, plain, program, scaler_of

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.nn.utils import clip_grad_norm_
from tinytorch_gpu.utils.checkpoint import checkpoint

SVG = "{http://www.w3.org/2000/svg}"

made = pytest.fixture(program)

# clean loops have no finding


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
    scaler = scaler_of(x)
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
    scaler = scaler_of(x)
    for _ in range(3):
        for _ in range(2):
            scaler.scale(loss_of(model, x) / 2).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)


def scaled_and_divided_by_hand(model, optimizer, x):
    scaler = scaler_of(x)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x)).backward()
        for p in model.parameters():
            p.grad.div_(1024)
        clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()


def scaled_by_one(model, optimizer, x):
    """What is multiplied by 1 may be clipped and stepped as it is."""
    scaler = scaler_of(x, 1.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x)).backward()
        clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()


def a_batch_left_out(model, optimizer, x):
    """Its gradients are looked at, unscaled, and cleared in place."""
    scaler = scaler_of(x)
    for k in range(4):
        scaler.scale(loss_of(model, x)).backward()
        scaler.unscale_(optimizer)
        if k != 1:
            scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)


def gradients_of_zero(model, optimizer, x):
    for _ in range(3):
        optimizer.zero_grad()
        (loss_of(model, x) * 0).backward()
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
         scaled_without_clipping, scaled_and_accumulated, scaled_and_divided_by_hand, scaled_by_one, a_batch_left_out,
         gradients_of_zero, warm_up, logged, validated, looked_at, given, checkpointed]


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


# names


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


@pytest.mark.parametrize("kinds_of, called", [
    ((optim.SGD, optim.Adam), ["SGD", "Adam"]),  # their classes tell them apart
    ((optim.SGD, optim.SGD), ["SGD of Linear 1", "SGD of Linear 2"]),
])
def test_optimizers_without_names_are_called_by_class_then_by_model(kinds_of, called):
    models = [nn.Linear(2, 2), nn.Linear(2, 2)]
    view = look.step(models, [kind(m.parameters(), lr=0.1) for kind, m in zip(kinds_of, models)])
    assert view.data["optimizers"] == called
    alone = look.step(models[0], [kind(m.parameters(), lr=0.1) for kind, m in zip(kinds_of, models)])
    assert alone.data["optimizers"] == (["SGD 1", "SGD 2"] if kinds_of[0] is kinds_of[1] else called)


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


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_says_what_was_found(view, width):
    out = io.StringIO()
    view.print(out, width)
    text = " ".join(out.getvalue().split())
    for words in ("2 pitfalls, 1 note", "zero_grad() is missing", "held by `total` in", "(note)", "where: ", "why: ",
                  "mend: ", "norm of the gradient, SGD", "before clipping", "clipped: "):
        assert words in text, words


def test_the_page_and_the_picture_show_what_was_found(view):
    texts = [t.text for t in ElementTree.fromstring(view.to_svg()).iter("{http://www.w3.org/2000/svg}text")]
    assert "before clipping" in texts and "threshold" in texts and "percentile 90" in texts
    page = view.to_html()
    assert "zero_grad() is missing" in page and "<svg" in page
    assert repr(view) == "<look.step: 12 steps, 2 pitfalls, 1 note>"


def bars_of(view):
    """{parameter: length of its bar}, {parameter: what is written beside it} in the picture of one step."""
    root = ElementTree.fromstring(view.to_svg())
    texts = [t.text for t in root.iter(f"{SVG}text")]
    long = {r.find(f"{SVG}title").text.split(" :")[0]: float(r.get("width")) for r in root.iter(f"{SVG}rect")
            if r.get("class") == "bar-0"}
    return long, dict(zip(texts[1::2], texts[2::2]))


@pytest.mark.parametrize("clip", [False, True])
def test_the_picture_of_one_step_is_the_parameters_norms(made, clip):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        loss_of(model, x).backward()
        if clip:
            clip_grad_norm_(model.parameters(), 1e-2)
        optimizer.step()
    norms = {name: float(np.linalg.norm(host(p.grad).ravel())) for name, p in model.named_parameters()}
    long, words = bars_of(view)
    assert words == {name: f"{n:.3g}" for name, n in norms.items()}
    most = max(norms.values())
    assert long == {name: pytest.approx(560 * n / most, abs=0.06) for name, n in norms.items()}
    assert "norm of the gradient of each parameter as the step used it" in view.to_html()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'tinytorch-gpu[viz]'")
    assert view.to_png().startswith(b"\x89PNG")


def test_the_picture_of_one_step_with_gradients_that_are_not_finite_or_not_there(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        loss_of(model[0], x * float("inf")).backward()
        optimizer.step()
    long, words = bars_of(view)
    assert not long and set(words) == {"0.weight", "0.bias"} and set(words.values()) <= {"inf", "nan"}
    with look.step(model, optimizer) as view:
        optimizer.zero_grad()
        optimizer.step()  # nothing to step with
    with pytest.raises(ValueError, match=r"\[save\] there is nothing to draw: norms need a step with gradients"):
        view.to_svg()


def test_pitfalls_come_before_notes_and_steps_are_counted_out(made):
    """A graph that is kept is a note that is seen first; zero_grad() is missing in some steps."""
    model, optimizer, x = made
    kept = []
    with look.step(model, optimizer) as view:
        for k in range(1, 13):
            loss = loss_of(model, x)
            loss.backward()
            kept += [loss] if k == 1 else []
            optimizer.step()
            if k + 1 not in (3, 5, 6, 8, 10, 12):
                optimizer.zero_grad()
    assert kinds(view) == ["zero_grad", "survives"] and finding(view, "zero_grad")["steps"] == [3, 5, 6, 8, 10, 12]
    assert "steps 3, 5, 6, 8 and 2 more used gradients" in finding(view, "zero_grad")["what"]
    assert "(0.weight, 0.bias, 2.weight, 2.bias)" in finding(view, "zero_grad")["what"]


@pytest.mark.parametrize("layers, named", [(2, "0.weight, 0.bias, 1.weight, 1.bias)"),
                                           (3, "0.weight, 0.bias, 1.weight, 1.bias and 2 more)")])
def test_a_sentence_names_four_parameters(seed, layers, named):
    model = nn.Sequential(*[nn.Linear(5, 5) for _ in range(layers)])
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    with look.step(model, optimizer) as view:
        for _ in range(2):
            loss_of(model, batch(seed)).backward()
            optimizer.step()
    assert named in finding(view, "zero_grad")["what"] and len(finding(view, "zero_grad")["parameters"]) == 2 * layers


def test_the_text_has_twenty_parameters_and_says_how_many_more(seed):
    model = nn.Sequential(*[nn.Linear(5, 5) for _ in range(12)])
    with look.step(model, optim.SGD(model.parameters(), lr=0.01)) as view:
        pass
    text = str(view)
    assert "9.bias" in text and "10.weight" not in text and "and 4 more, in data and .html" in text
    assert "11.bias" in view.to_html() and len(view.data["parameters"]) == 24


def test_a_chart_of_two_steps_with_a_log_scale_where_norms_differ(made):
    model, optimizer, x = made
    for factor, steps in ((1, 1), (1, 2), (1000, 2), (1, 9), (1, 10)):
        with look.step(model, optimizer) as view:
            for k in range(steps):
                optimizer.zero_grad()
                (loss_of(model, x) * factor**k).backward()
                optimizer.step()
        assert ("norm of the gradient, SGD" in str(view)) == (steps > 1)
        if steps <= 2:  # after more, the norms of some models have fallen so far by themselves
            assert ("log scale" in str(view)) == (factor == 1000)
        assert ("percentile 90 of 10 norms" in " ".join(str(view).split())) == (steps == 10)
        assert ("percentile" in str(view)) == (steps == 10)  # of fewer norms, a tenth is none


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
    assert {p["state"] for p in view.data["parameters"]} == {"reached"} and "no step to judge" in text
    assert "states of the parameters are not known" not in text


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
