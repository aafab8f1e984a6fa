"""A train step under autocast with GradScaler and clipping never waits for the device, and fits into a graph."""
from __future__ import annotations

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import amp, nn, optim
from tinytorch_gpu.backend import simulated
from tinytorch_gpu.nn import functional as F

CLASSES, TIME, WIDTH = 40, 12, 32
OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05),
    "SGD momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "AMSGrad": lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
    "AdamW of two groups": lambda p: optim.AdamW(
        [{"params": [q for q in p if q.ndim > 1]},
         {"params": [q for q in p if q.ndim < 2], "weight_decay": 0.0}], lr=0.01),
}


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(TIME, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Dropout(0.1),
                                 nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, tokens):
        weight = self.net[0].weight
        return self.net(tokens.to(weight.dtype) / CLASSES).unsqueeze(1).expand(-1, TIME, -1)


class Transformer(nn.Module):
    """One block with embeddings, causal attention, residuals, and a head."""

    def __init__(self, heads=4):
        super().__init__()
        self.heads = heads
        self.token, self.position = nn.Embedding(CLASSES, WIDTH), nn.Embedding(TIME, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head, self.drop = nn.Linear(WIDTH, CLASSES, bias=False), nn.Dropout(0.1)

    def forward(self, tokens):
        batch, time = tokens.shape
        x = self.token(tokens) + self.position(tt.arange(time, device=tokens.device))
        q, k, v = (a.reshape(batch, time, self.heads, -1).transpose(1, 2) for a in self.qkv(self.norm1(x)).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, time, WIDTH)
        x = x + self.drop(self.out(a))
        x = x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))
        return self.head(self.norm3(x))


class Training:
    """A model, its optimizer and a scaler; `step()` is what a training loop repeats."""

    def __init__(self, device, model, optimizer, dtype=tt.float16, weights=None, keep=False):
        tt.manual_seed(0)
        self.device, self.dtype, self.keep = device, dtype, keep
        self.model = model()
        if weights is not None:
            self.model.to(weights)
        self.optimizer = optimizer(list(self.model.parameters()))
        self.scaler = amp.GradScaler(init_scale=2.0**8)
        rng = np.random.default_rng(0)
        self.tokens, self.targets = (tt.tensor(rng.integers(0, CLASSES, (4, TIME))) for _ in range(2))
        self.unscale = weights is not tt.float16

    def step(self):
        with amp.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(self.tokens)
            loss = F.cross_entropy(logits.reshape(-1, CLASSES), self.targets.reshape(-1))
        self.scaler.scale(loss).backward()
        if self.unscale:  # float16 gradients are unscaled by the optimizer itself
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.keep)
        return loss

    def weights(self):
        return [p.detach().float().cpu().numpy() for p in self.model.parameters()]


@pytest.fixture
def sim(kernel_device):
    if kernel_device.type != "sim":
        pytest.skip("copies and waits are counted on the simulated device")
    return kernel_device


def waits(counted):
    return counted.device_to_host, counted.synchronizations


def check(training):
    first = training.step().item()
    training.step()
    with simulated.counters() as counted:
        training.step()
    assert waits(counted) == (0, 0)
    for _ in range(4):
        loss = training.step().item()
    assert loss < 0.99 * first, "it trains"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", [MLP, Transformer])
def test_a_step_under_autocast_never_waits(sim, model, optimizer):
    check(Training(sim, model, OPTIMIZERS[optimizer]))


@pytest.mark.parametrize("optimizer", [
    lambda p: optim.SGD(p, lr=0.05, momentum=0.9, master_weights=True),
    lambda p: optim.AdamW(p, lr=0.01, master_weights=True)], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("weights", [tt.bfloat16, tt.float16], ids=["bfloat16", "float16"])
def test_half_weights_with_masters_never_wait(sim, weights, optimizer):
    check(Training(sim, Transformer, optimizer, None, weights))


def test_formulas_never_wait_either(sim):
    with tt.backend.kernel.use_kernels(False):
        training = Training(sim, MLP, OPTIMIZERS["AdamW"])
        for _ in range(2):
            training.step()
        with simulated.counters() as counted:
            training.step()
        assert waits(counted) == (0, 0)


def test_the_counters_see_a_read(sim):
    training = Training(sim, MLP, OPTIMIZERS["AdamW"])
    training.step()
    with simulated.counters() as counted:
        training.step()
        training.scaler.get_scale()
        assert training.optimizer.state[next(training.model.parameters())]["step"].item() == 2
    assert waits(counted) == (2, 2)


@pytest.mark.parametrize("optimizer", ["SGD momentum", "AdamW", "AdamW of two groups"])
@pytest.mark.parametrize("keep", [True, False], ids=["zeroed", "set to None"])
def test_a_step_can_be_captured(sim, optimizer, keep):
    """Replays are steps: the same weights as without a graph, to the bit."""
    eager, graphed = (Training(sim, Transformer, OPTIMIZERS[optimizer], keep=keep) for _ in range(2))
    for training in (eager, graphed):
        training.model.drop.p = 0.0  # a replay repeats its random numbers
        for _ in range(2):
            training.step()
    with simulated.capture() as captured:
        loss = graphed.step()
    before = graphed.weights()
    for _ in range(2):
        captured.launch()
        want = eager.step()
        assert loss.item() == want.item()
    for a, b, c in zip(graphed.weights(), eager.weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert graphed.scaler.state_dict() == eager.scaler.state_dict()


def test_a_captured_step_skips_by_itself(sim):
    """The same graph, replayed with a gradient that overflows: nothing moves but the scale."""
    training = Training(sim, MLP, OPTIMIZERS["AdamW"], keep=True)
    training.model.net[3].p = 0.0
    for _ in range(2):
        training.step()
    with simulated.capture() as captured:
        training.step()
    captured.launch()
    before, scale = training.weights(), training.scaler.get_scale()
    steps = training.optimizer.state[training.model.net[0].weight]["step"]
    assert steps.item() == 3
    training.scaler.update(2.0**120)
    captured.launch()
    for a, b in zip(training.weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert steps.item() == 3 and training.scaler.get_scale() == 2.0**119
    training.scaler.update(scale)
    captured.launch()
    assert steps.item() == 4 and not np.array_equal(training.weights()[0], before[0])


@pytest.mark.parametrize(("model", "optimizer"), [
    (MLP, "SGD momentum"), (MLP, "AMSGrad"), (Transformer, "AdamW")])
def test_steps_on_changing_streams(sim, model, optimizer):
    """Each step on another stream, nothing said about their order: the same bits as on one."""
    plain, moving = (Training(sim, model, OPTIMIZERS[optimizer]) for _ in range(2))
    for training in (plain, moving):
        training.model.eval()  # no dropout: the seed is one for both
    for _ in range(4):
        plain.step()
    cuda = simulated.xp.cuda
    first, second = (cuda.Stream(non_blocking=True) for _ in range(2))
    for stream in (first, second, first, cuda.Stream.null):
        with stream:
            moving.step()
    simulated.synchronize()
    for a, b in zip(plain.weights(), moving.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain.scaler.state_dict() == moving.scaler.state_dict()
