"""look.step: graphs that survive their step, and who holds them."""
from __future__ import annotations

import gc
from pathlib import Path

import pytest
from step_program import finding, kinds, loss_of, program

from tinytorch_gpu import look
from tinytorch_gpu.amp import GradScaler

made = pytest.fixture(program)


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
    assert holder.endswith(Path(__file__).name)
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


def test_a_graph_that_lives_for_one_step_more(made):
    """It is gone at the end, and what garbage holds beside it is no second one."""
    model, optimizer, x = made

    def train():
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            ring = [loss]
            ring.append(ring)
            loss.backward()
            optimizer.step()

    gc.disable()
    try:
        with look.step(model, optimizer) as view:
            last = loss_of(model, x)
            last.backward()
            optimizer.step()
            train()
            del last
    finally:
        gc.enable()
    assert kinds(view) == []


def test_nodes_are_counted_once_however_often_they_are_used(made):
    """h + h, 60 times: 2**60 ways lead to the first node."""
    model, optimizer, x = made
    kept = []
    with look.step(model, optimizer) as view:
        for _ in range(3):
            optimizer.zero_grad()
            h = model(x).mean() * 2.0**-60
            for _ in range(60):
                h = h + h
            h.backward()
            optimizer.step()
            kept.append(h)
    assert finding(view, "survives")["measured"]["nodes"] == 2 * (60 + 5)  # Linear, Tanh, Linear, Mean, Mul
