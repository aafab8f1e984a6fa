"""What is measured of each kernel: the operator on both sides, its inputs, the least bytes that it must move.

`forward` and `backward` count passes over the data: a gradient that reads grad and x and writes gx is 3. Small
operands (weights, statistics) are left out. `theirs` is the same in PyTorch's names where PyTorch has no such operator.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    name: str
    group: str
    make: Callable  # (draw, rng, rows, columns) -> NumPy inputs; floating ones get gradients
    ours: Callable  # (t, *inputs)
    forward: float
    backward: float | None  # None: no backward
    theirs: Callable | None = None  # None: as ours
    columns: int = 4096
    rows: int = 8192
    tiny: tuple[int, int] = (64, 128)  # rows and columns on the simulated device
    constants: tuple = ()  # numbers of floating inputs without a gradient
    kernel: str = ""  # whose figures these are: its `_forward` and `_backward`, or the one kernel of both directions

    def kernel_of(self, direction) -> str:
        return self.kernel if self.kernel in ("dropout", "rotary", "column_sums") else f"{self.kernel}_{direction}"


def _x(draw, rng, rows, columns):
    return (draw(rng, (rows, columns)),)


def _xx(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), draw(rng, (rows, columns))


def _bias(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), draw(rng, (columns,))


def _weighted(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), draw(rng, (columns,)) + 1, draw(rng, (columns,))


def _scaled(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), draw(rng, (columns,)) + 1


def _classes(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), rng.integers(0, columns, rows)


def _table(draw, rng, rows, columns):
    return draw(rng, (vocabulary(rows), columns)), rng.integers(0, vocabulary(rows), rows)


def _picked(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), rng.permutation(rows)


def vocabulary(rows):
    """Rows of the embedding table for a number of tokens."""
    return 50304 if rows > 1000 else 64


def _rotary(draw, rng, rows, columns):
    """8 heads, positions in half a row each: (batch 4, heads 8, rows / 4, columns / 8) and the tables of angles."""
    time, width = rows // 4, columns // 8
    angles = np.arange(time)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return draw(rng, (4, 8, time, width)), np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _torch_rotary(t, x, cos, sin):
    a, b = x.chunk(2, -1)
    return t.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _summed(draw, rng, rows, columns):
    return draw(rng, (rows, columns)), draw(rng, (rows, columns)), draw(rng, (columns,)) + 1, draw(rng, (columns,))


def _torch_add_layer_norm(t, x, r, w, b):
    total = x + r
    return t.nn.functional.layer_norm(total, (x.shape[-1],), w, b), total


def _torch_add_rms_norm(t, x, r, w, b):
    total = x + r
    return t.nn.functional.rms_norm(total, (x.shape[-1],), w), total


def _heads(draw, rng, rows, columns):
    """Queries, keys and values (batch 4, heads of 64, rows / 4, 64)."""
    return tuple(draw(rng, (4, columns // 64, rows // 4, 64)) for _ in range(3))


def _act(name):
    return lambda t, x: getattr(t.nn.functional, name)(x)


# rows too long for one block's shared memory: the gradients of weight and bias are a second pass
WIDE = 16384

CASES = [
    Case("relu", "activation", _x, _act("relu"), 2, 3, kernel="activation"),
    Case("silu", "activation", _x, _act("silu"), 2, 3, kernel="activation"),
    Case("gelu", "activation", _x, _act("gelu"), 2, 3, kernel="activation"),
    Case("gelu_tanh", "activation", _x, lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), 2, 3,
         kernel="activation"),
    Case("bias_gelu", "activation", _bias, lambda t, x, b: t.nn.functional.bias_act(x, b, "gelu"), 2, 3,
         lambda t, x, b: t.nn.functional.gelu(x + b), kernel="activation"),
    Case("swiglu", "activation", _xx, lambda t, a, b: t.nn.functional.swiglu(a, b), 3, 5,
         lambda t, a, b: t.nn.functional.silu(a) * b, kernel="gated"),
    Case("geglu", "activation", _xx, lambda t, a, b: t.nn.functional.geglu(a, b), 3, 5,
         lambda t, a, b: t.nn.functional.gelu(a) * b, kernel="gated"),
    Case("dropout", "activation", _x, lambda t, x: t.nn.functional.dropout(x, 0.1), 2, 2, kernel="dropout"),
    Case("dropout_add", "activation", _xx, lambda t, x, r: t.nn.functional.dropout_add(x, r, 0.1), 3, 2,
         lambda t, x, r: r + t.nn.functional.dropout(x, 0.1), kernel="dropout"),
    Case("rotary", "activation", _rotary,
         lambda t, x, cos, sin: t.nn.functional.rotary_embedding(x, cos, sin), 2, 2, _torch_rotary, constants=(1, 2),
         kernel="rotary"),
    Case("softmax", "rows", _x, lambda t, x: t.softmax(x, -1), 2, 3, kernel="softmax"),
    Case("log_softmax", "rows", _x, lambda t, x: t.log_softmax(x, -1), 2, 3, kernel="softmax"),
    Case("layer_norm", "rows", _weighted,
         lambda t, x, w, b: t.nn.functional.layer_norm(x, (x.shape[-1],), w, b), 2, 3, kernel="norm"),
    Case("layer_norm_wide", "rows", _weighted,
         lambda t, x, w, b: t.nn.functional.layer_norm(x, (x.shape[-1],), w, b), 2, 3, rows=2048, columns=WIDE,
         tiny=(4, WIDE), kernel="norm"),
    Case("rms_norm", "rows", _scaled, lambda t, x, w: t.nn.functional.rms_norm(x, (x.shape[-1],), w), 2, 3,
         kernel="norm"),
    Case("add_layer_norm", "rows", _summed,
         lambda t, x, r, w, b: t.nn.functional.add_layer_norm(x, r, (x.shape[-1],), w, b), 4, 4, _torch_add_layer_norm,
         kernel="norm"),
    Case("add_rms_norm", "rows", _summed,
         lambda t, x, r, w, b: t.nn.functional.add_rms_norm(x, r, (x.shape[-1],), w), 4, 4, _torch_add_rms_norm,
         constants=(3,), kernel="norm"),
    Case("attention", "rows", _heads,
         lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), 4, 8, rows=4096,
         columns=768),
    Case("sum_rows", "rows", _x, lambda t, x: t.sum(x, 0), 1, 1, kernel="column_sums"),
    Case("cross_entropy", "loss", _classes, lambda t, x, y: t.nn.functional.cross_entropy(x, y), 1, 2,
         rows=4096, columns=50304, kernel="cross_entropy"),
    Case("index_select", "loss", _picked, lambda t, x, i: t.index_select(x, 0, i), 2, 2),
    Case("embedding", "loss", _table, lambda t, w, i: t.nn.functional.embedding(i, w), 2, 1, rows=32768, columns=768,
         kernel="embedding"),
]


@dataclass(frozen=True)
class Optimizer:
    """A step over the parameters of GPT-2: `passes` counts reads and writes of 4 bytes for each parameter."""

    name: str
    make: Callable  # (t, parameters, best) -> optimizer; best: PyTorch's fastest implementation
    passes: float
    kernel: str


OPTIMIZERS = [
    Optimizer("AdamW", lambda t, p, best: t.optim.AdamW(p, lr=1e-4, **best), 7, "adam"),
    Optimizer("Adam", lambda t, p, best: t.optim.Adam(p, lr=1e-4, **best), 7, "adam"),
    Optimizer("SGD", lambda t, p, best: t.optim.SGD(p, lr=1e-3, momentum=0.9, **best), 5, "sgd"),
]

GROUPS = ("activation", "rows", "loss", "optimizer")
