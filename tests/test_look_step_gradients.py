"""look.step: gradients that are old, lost, doubled or never come, learning rates of zero, modes."""
from __future__ import annotations

import math

import numpy as np
import pytest
from step_program import batch, finding, host, kinds, loss_of, modal, net, plain, program, scaler_of, together

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim

made = pytest.fixture(program)

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


def test_zero_grad_forgotten_with_a_scaler(made):
    """Norms are told as the step uses them; what a step has used is old, not a mixture of scales."""
    model, optimizer, x = made
    scaler, old, new = scaler_of(x), 0.0, 0.0
    with look.step(model, optimizer) as view:
        for _ in range(2):
            if model[0].weight.grad is not None:
                old = together(model) / 1024  # the step divides all that is there
            grads = tt.autograd.grad(loss_of(model, x), list(model.parameters()))
            new = math.hypot(*[np.linalg.norm(host(g)) for g in grads])
            scaler.scale(loss_of(model, x)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert kinds(view) == ["zero_grad"]
    assert finding(view, "zero_grad")["measured"]["old"] == pytest.approx(old, rel=1e-4)
    assert finding(view, "zero_grad")["measured"]["new"] == pytest.approx(new, rel=1e-4)
    optimizer.zero_grad()
    with look.step(model, optimizer) as view:
        for _ in range(2):
            scaler.scale(loss_of(model, x)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert "zero_grad" in kinds(view) and "mixed" not in kinds(view)


def test_a_gradient_zeroed_several_times_before_the_step(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for _ in range(3):
            loss_of(model, x).backward()
            optimizer.zero_grad(set_to_none=False)
        loss_of(model, x).backward()
        optimizer.step()
    assert kinds(view) == [] and len(view.data["steps"][0]["backwards"]) == 1


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


def test_backward_three_times_from_a_scaled_loss(made):
    """One finding of the step, and norms without the scale."""
    model, optimizer, x = made
    scaler = scaler_of(x)
    single = math.hypot(*[np.linalg.norm(host(g)) for g in tt.autograd.grad(loss_of(model, x), [*model.parameters()])])
    with look.step(model, optimizer) as view:
        loss = scaler.scale(loss_of(model, x))
        for _ in range(3):
            loss.backward(retain_graph=True)
        del loss
        scaler.step(optimizer)
    assert kinds(view) == ["twice"] and finding(view, "twice")["steps"] == [1]
    assert finding(view, "twice")["measured"]["norm"] == pytest.approx(single, rel=1e-4)


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
        model[0].requires_grad_(False)
        plain(model, optimizer, x)
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


# rates and modes


def test_a_learning_rate_of_zero(made):
    model, _, x = made
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}], lr=0.1)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, x)
    found = finding(view, "lr_zero")
    assert kinds(view) == ["lr_zero"] and found["parameters"] == ["0.weight", "0.bias"] and "group 0" in found["what"]


def test_a_warm_up_from_zero_is_meant(made):
    model, _, x = made
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    with look.step(model, optimizer) as view:
        plain(model, optimizer, x, 1)
    assert kinds(view) == []


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


def test_a_mode_that_makes_no_difference_is_no_finding(seed):
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, track_running_stats=False), nn.Dropout(0.0),
                          nn.Linear(7, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    model.eval()
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


def test_one_of_several_models_without_gradients_is_meant(seed):
    """As a maker that only feeds the judge."""
    maker, judge = modal(), nn.Linear(3, 1)
    optimizer = optim.SGD(judge.parameters(), lr=0.01)
    with look.step([maker, judge], [optimizer, optim.SGD(maker.parameters(), lr=0.01)]) as view:
        for _ in range(2):
            optimizer.zero_grad()
            with tt.no_grad():
                fake = maker(batch(seed))
            judge(fake).mean().backward()
            optimizer.step()
    assert "train_forward" not in kinds(view)
