"""The transformer that a plan describes, built, and its train step: what the plan's figures are compared with."""
from __future__ import annotations

import gc

import numpy as np

from ... import amp, nn, ops, optim
from ...backend import dtypes
from ...utils.checkpoint import checkpoint
from ..measure import meter_of

__all__ = ["Transformer", "measured", "train_step"]

F = nn.functional
HALF = {"fp16": dtypes.float16, "bf16": dtypes.bfloat16}


class Block(nn.Module):
    """Attention and a network of two layers, each on a normalized copy of the stream (batch, time, width)."""

    def __init__(self, config):
        super().__init__()
        width = config.width
        self.heads, self.again = config.heads, config.checkpointing == "selective"
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(c, -1)
        q, k, v = (z.reshape(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        a = checkpoint(_attention, q, k, v) if self.again else _attention(q, k, v)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


def _attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Transformer(nn.Module):
    """Tokens (batch, time) to logits (batch, time, vocabulary), as a `PlanConfig` says."""

    def __init__(self, config):
        super().__init__()
        width = config.width
        self.again = config.checkpointing == "full"
        self.tokens, self.places = nn.Embedding(config.vocabulary, width), nn.Embedding(config.context, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = None if config.tied else nn.Linear(width, config.vocabulary, bias=False)

    def forward(self, index):
        x = self.tokens(index) + self.places(ops.arange(index.shape[1], device=index.device))
        for block in self.blocks:
            x = checkpoint(block, x) if self.again else block(x)
        return F.linear(self.norm(x), self.tokens.weight if self.head is None else self.head.weight)


def optimizer_for(model, config):
    """The optimizer of a config over a model's parameters."""
    master = {"master_weights": True} if config.weights == "master" else {}
    if config.optimizer in ("adam", "adamw"):
        kind = optim.Adam if config.optimizer == "adam" else optim.AdamW
        return kind(model.parameters(), lr=1e-3, **master)
    return optim.SGD(model.parameters(), lr=1e-3, momentum=0.9 if config.optimizer == "momentum" else 0.0, **master)


def train_step(config, device):
    """(step, what it needs): a function without arguments that trains the config's model for one step on random tokens.

    The gradients of a step are dropped when the next one begins.
    """
    model = Transformer(config)
    if config.weights != "float32":
        model.to(HALF[config.precision])
    model.to(device)
    optimizer = optimizer_for(model, config)
    random = np.random.default_rng(0)
    x, y = (ops.tensor(random.integers(0, config.vocabulary, (config.batch, config.sequence)), device=device)
            for _ in range(2))
    cast = config.precision != "fp32" and config.weights == "float32"
    scaler = amp.GradScaler(device.type, init_scale=2.0**8, enabled=config.precision == "fp16")
    half = HALF.get(config.precision, dtypes.bfloat16)

    def step():
        optimizer.zero_grad()
        with amp.autocast(device.type, half, enabled=cast):
            loss = F.cross_entropy(model(x).reshape(-1, config.vocabulary), y.reshape(-1))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def measured(config, device) -> int:
    """Bytes at the worst moment of the second step of a model built for it, everything that was built included.

    On the CPU as tracemalloc counts them, Python's objects too; on a device as its pool counts them.
    """
    small = config.but(layers=min(config.layers, 1), width=8 * config.heads, vocabulary=16, batch=4, sequence=32,
                       context=32)
    train_step(small, device)()  # imports, kernels: what the first use of an operator leaves behind
    gc.collect()
    meter = meter_of(device)
    try:
        before = meter.read()[0]
        step = train_step(config, device)
        step()
        meter.reset()
        step()
        return meter.read()[1] - before
    finally:
        meter.close()
