"""The small program whose training steps the tests of look.step watch, and what they ask of a view."""
from __future__ import annotations

import math

import numpy as np

import tinytorch_gpu as tt
from tinytorch_gpu import nn, optim
from tinytorch_gpu.amp import GradScaler


def host(t):
    return np.asarray(t.detach().cpu().numpy(), np.float64)


def norm(t):
    return float(np.linalg.norm(host(t).ravel()))


def together(model):
    return math.hypot(*[norm(p.grad) for p in model.parameters() if p.grad is not None])


def net():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def modal():
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.2), nn.Linear(7, 3))


def batch(seed, size=4):
    return tt.tensor(np.random.default_rng(seed).standard_normal((size, 5)), dtype=tt.float32)


def loss_of(model, x):
    return model(x).square().mean()


def program(seed):
    """A model, its optimizer and a batch; the fixture `made` of the test files."""
    tt.manual_seed(seed)
    print(f"tt.manual_seed({seed})")
    model = net()
    return model, optim.SGD(model.parameters(), lr=0.05), batch(seed)


def scaler_of(x, scale=1024.0, **options):
    """A gradient scaler for the device of a tensor."""
    return GradScaler(x.device.type, init_scale=scale, **options)


def plain(model, optimizer, x, steps=3):
    """The loop as it should be."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def kinds(view):
    return [f["kind"] for f in view.data["findings"]]


def finding(view, kind):
    found, = [f for f in view.data["findings"] if f["kind"] == kind]
    return found
