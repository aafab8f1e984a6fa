"""Learning-rate schedules, step by step beside torch.optim.lr_scheduler."""
from __future__ import annotations

import copy
import warnings

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import optim


def halved(step):
    return 0.5**step


class Warmup:
    """A callable object: its state belongs to the schedule's."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return min(1.0, (step + 1) / self.steps)


def sequential(S, o):
    return S.SequentialLR(o, [S.LinearLR(o, 0.1, total_iters=4), S.CosineAnnealingLR(o, 8, eta_min=0.01),
                              S.ExponentialLR(o, 0.9)], milestones=[4, 12])


SCHEDULES = {
    "lambda": lambda S, o: S.LambdaLR(o, halved),
    "lambdas": lambda S, o: S.LambdaLR(o, [halved, Warmup(5)]),
    "step": lambda S, o: S.StepLR(o, 3, 0.5),
    "multistep": lambda S, o: S.MultiStepLR(o, [2, 5, 5, 11], 0.5),
    "constant": lambda S, o: S.ConstantLR(o, 0.25, 6),
    "linear": lambda S, o: S.LinearLR(o, 0.2, 0.7, 8),
    "exponential": lambda S, o: S.ExponentialLR(o, 0.8),
    "cosine": lambda S, o: S.CosineAnnealingLR(o, 7, eta_min=0.02),
    "cosine once": lambda S, o: S.CosineAnnealingLR(o, 20),
    "restarts": lambda S, o: S.CosineAnnealingWarmRestarts(o, 3, 2, eta_min=0.01),
    "one cycle": lambda S, o: S.OneCycleLR(o, max_lr=[0.3, 0.6], total_steps=21),
    "one cycle, three": lambda S, o: S.OneCycleLR(o, 0.5, epochs=3, steps_per_epoch=7, three_phase=True,
                                                  anneal_strategy="linear", pct_start=0.4),
    "one cycle, fixed momentum": lambda S, o: S.OneCycleLR(o, 0.5, 21, cycle_momentum=False, div_factor=5.0),
    "sequential": sequential,
}


def make(lib, kind="SGD"):
    params = [lib.zeros(2).requires_grad_(True), lib.zeros(3).requires_grad_(True)]
    groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.4}]
    return getattr(lib.optim, kind)(groups, lr=0.1, **({"momentum": 0.9} if kind == "SGD" else {}))


def groups_of(optimizer):
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_every_step_is_pytorchs(torch, name, kind):
    """Equal up to 1e-13: the same products of Python floats, some in another order."""
    a, b = make(tt, kind), make(torch, kind)
    ours, theirs = SCHEDULES[name](optim.lr_scheduler, a), SCHEDULES[name](torch.optim.lr_scheduler, b)
    for _ in range(20):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-13, abs=1e-18)
        for g, h in zip(groups_of(a), groups_of(b), strict=True):
            assert list(g) == list(h)
            assert g["lr"] == pytest.approx(h["lr"], rel=1e-13, abs=1e-18)
            for key in ("momentum", "betas"):
                if key in g:
                    assert g[key] == pytest.approx(h[key], rel=1e-13)
        a.step()
        b.step()
        ours.step()
        theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_state_dict_continues(name):
    a, b = make(tt), make(tt)
    first = SCHEDULES[name](optim.lr_scheduler, a)
    for _ in range(6):
        a.step()
        first.step()
    second = SCHEDULES[name](optim.lr_scheduler, b)
    b.load_state_dict(a.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(8):
        assert first.get_last_lr() == second.get_last_lr() and groups_of(a) == groups_of(b)
        for optimizer, schedule in ((a, first), (b, second)):
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("name", ["step", "linear", "cosine", "exponential", "multistep", "constant"])
def test_resuming_by_last_epoch(torch, name):
    def resumed(lib):
        S = lib.optim.lr_scheduler
        o = make(lib)
        for group in o.param_groups:
            group["initial_lr"] = group["lr"]
        extra = {"step": lambda: S.StepLR(o, 3, 0.5, last_epoch=5), "linear": lambda: S.LinearLR(o, 0.2, 0.7, 8, 5),
                 "cosine": lambda: S.CosineAnnealingLR(o, 7, last_epoch=5),
                 "exponential": lambda: S.ExponentialLR(o, 0.8, last_epoch=5),
                 "multistep": lambda: S.MultiStepLR(o, [6, 9], last_epoch=5),
                 "constant": lambda: S.ConstantLR(o, 0.5, 7, last_epoch=5)}[name]
        schedule, seen = extra(), []
        for _ in range(6):
            seen += schedule.get_last_lr()
            o.step()
            schedule.step()
        return seen

    assert resumed(tt) == pytest.approx(resumed(torch), rel=1e-13)


def test_plateau(torch):
    metrics = [1.0, 0.9, 0.95, 0.95, 0.95, 0.94, 0.93, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    for options in (dict(patience=1, factor=0.5), dict(patience=1, cooldown=2, threshold=0.1, threshold_mode="abs"),
                    dict(mode="max", patience=2, min_lr=[0.05, 0.01])):
        a, b = make(tt), make(torch)
        ours = optim.lr_scheduler.ReduceLROnPlateau(a, **options)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)
        for m in metrics:
            ours.step(tt.tensor(m))
            theirs.step(torch.tensor(m))
            assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-14)
            assert (ours.num_bad_epochs, ours.best) == (theirs.num_bad_epochs, theirs.best)
    again = optim.lr_scheduler.ReduceLROnPlateau(make(tt))
    again.load_state_dict(ours.state_dict())
    assert again.best == ours.best and again.mode == "max"


def test_a_rate_set_by_hand_is_continued():
    o = make(tt)
    schedule = optim.lr_scheduler.ExponentialLR(o, 0.5)
    o.param_groups[0]["lr"] = 8.0
    o.step()
    schedule.step()
    assert schedule.get_last_lr()[0] == 4.0


def test_warns_when_the_schedule_steps_first():
    o = make(tt)
    schedule = optim.lr_scheduler.StepLR(o, 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
    o = make(tt)
    o.step()  # steps before the schedule existed do not count
    schedule = optim.lr_scheduler.StepLR(o, 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
    o = make(tt)
    schedule = optim.lr_scheduler.StepLR(o, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        o.step()
        schedule.step()
        schedule.step()


def test_other_warnings():
    o = make(tt)
    schedule = optim.lr_scheduler.StepLR(o, 3)
    o.step()
    with pytest.warns(UserWarning, match="get_last_lr"):
        schedule.get_lr()
    with pytest.warns(UserWarning, match="epoch parameter"):
        schedule.step(6)
    assert schedule.get_last_lr() == pytest.approx([0.001, 0.004])


S = optim.lr_scheduler


@pytest.mark.parametrize(("error", "message", "call"), [
    (TypeError, "is not an Optimizer", lambda o: S.StepLR(None, 3)),
    (KeyError, "initial_lr", lambda o: S.StepLR(o, 3, last_epoch=2)),
    (ValueError, "Expected 2 lr_lambdas", lambda o: S.LambdaLR(o, [halved])),
    (ValueError, "between 0 and 1", lambda o: S.ConstantLR(o, 1.5)),
    (ValueError, "Starting multiplicative", lambda o: S.LinearLR(o, 0.0)),
    (ValueError, "Ending multiplicative", lambda o: S.LinearLR(o, end_factor=2.0)),
    (ValueError, "positive integer T_0", lambda o: S.CosineAnnealingWarmRestarts(o, 0)),
    (ValueError, "T_mult", lambda o: S.CosineAnnealingWarmRestarts(o, 2, 0)),
    (ValueError, "You must define either", lambda o: S.OneCycleLR(o, 0.1)),
    (ValueError, "positive integer total_steps", lambda o: S.OneCycleLR(o, 0.1, total_steps=0)),
    (ValueError, "pct_start", lambda o: S.OneCycleLR(o, 0.1, 10, pct_start=2.0)),
    (ValueError, "anneal_strategy", lambda o: S.OneCycleLR(o, 0.1, 10, anneal_strategy="x")),
    (ValueError, "max_lr must have the same length", lambda o: S.OneCycleLR(o, [0.1], 10)),
    (ValueError, "at least one scheduler", lambda o: S.SequentialLR(o, [], [])),
    (ValueError, "one more than the number", lambda o: S.SequentialLR(o, [S.StepLR(o, 1)], [1])),
    (ValueError, "same optimizer", lambda o: S.SequentialLR(o, [S.StepLR(make(tt), 1)], [])),
    (ValueError, "ReduceLROnPlateau", lambda o: S.SequentialLR(o, [S.ReduceLROnPlateau(o)], [])),
    (ValueError, "Factor should be", lambda o: S.ReduceLROnPlateau(o, factor=1.0)),
    (ValueError, "mode", lambda o: S.ReduceLROnPlateau(o, mode="x")),
    (NotImplementedError, "define get_lr", lambda o: S.LRScheduler(o)),
])
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call(make(tt))


def test_one_cycle_ends():
    o = make(tt)
    schedule = S.OneCycleLR(o, 0.1, 3)
    for _ in range(3):
        o.step()
        schedule.step()
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        schedule.step()
