"""The models that the benchmarks train, written once: `t` is tinytorch_gpu or torch."""
from __future__ import annotations

import numpy as np


def chain(t, rng):
    """forward + backward of 250 x tanh(x * w + w) - x0 on 32 floats: 1,000 tiny operators."""
    x0, w0 = (rng.standard_normal(32).astype(np.float32) for _ in range(2))
    constant, one = t.from_numpy(x0), t.ones(32)

    def step():
        x, w = t.tensor(x0, requires_grad=True), t.tensor(w0, requires_grad=True)
        h = x
        for _ in range(250):
            h = t.tanh(h * w + w) - constant
        h.backward(one)

    return step


def _step(t, model, optimizer, loss):
    def step():
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        return value

    return step


def mlp(t, rng):
    """A train step of 784-512-256-10 with ReLU, batch 128, cross-entropy, AdamW."""
    nn = t.nn
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    x = t.from_numpy(rng.standard_normal((128, 784)).astype(np.float32))
    y = t.from_numpy(rng.integers(0, 10, 128))
    return _step(t, model, t.optim.AdamW(model.parameters(), lr=1e-3),
                 lambda m: nn.functional.cross_entropy(m(x), y))


def make_gpt(t, vocabulary=256, layers=4, width=128, heads=4, context=128):
    """A decoder-only transformer: pre-norm blocks, GELU, tied to nothing."""
    nn, f = t.nn, t.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            b, n, c = x.shape
            q, k, v = self.qkv(self.norm1(x)).split(width, -1)
            q, k, v = (z.reshape(b, n, heads, c // heads).transpose(1, 2) for z in (q, k, v))
            a = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, n, c))
            return x + self.down(f.gelu(self.up(self.norm2(x))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

        def forward(self, index):
            h = self.tokens(index) + self.places(t.arange(index.shape[1]))
            return self.head(self.norm(self.blocks(h)))

    return Gpt()


def gpt(t, rng):
    """A train step of a GPT: 4 layers x 128, 4 heads, T 128, batch 16, vocabulary 256, AdamW."""
    model = make_gpt(t)
    x, y = (t.from_numpy(rng.integers(0, 256, (16, 128))) for _ in range(2))
    return _step(t, model, t.optim.AdamW(model.parameters(), lr=1e-3),
                 lambda m: t.nn.functional.cross_entropy(m(x).reshape(-1, 256), y.reshape(-1)))


def make_gpt2(t, vocabulary=50304, layers=12, width=768, heads=12, context=1024):
    """GPT-2 (124M parameters as given): pre-norm blocks, GELU by tanh, the output layer shares the token embedding.

    Where the library has `bias_act`, the bias before the GELU is added by it; PyTorch's linear does that by itself.
    """
    nn, f = t.nn, t.nn.functional

    def activated(linear, x):
        if hasattr(f, "bias_act"):
            return f.bias_act(f.linear(x, linear.weight), linear.bias, "gelu_tanh")
        return f.gelu(linear(x), approximate="tanh")

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            b, n, c = x.shape
            q, k, v = self.qkv(self.norm1(x)).split(width, -1)
            q, k, v = (z.reshape(b, n, heads, c // heads).transpose(1, 2) for z in (q, k, v))
            a = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, n, c))
            return x + self.down(activated(self.up, self.norm2(x)))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks, self.norm = nn.ModuleList([Block() for _ in range(layers)]), nn.LayerNorm(width)

        def forward(self, index):
            x = self.tokens(index) + self.places(t.arange(index.shape[1], device=index.device))
            for block in self.blocks:
                x = block(x)
            return f.linear(self.norm(x), self.tokens.weight)

    return Gpt2()


def cnn(t, rng):
    """A train step of 3-32-64 (3x3, max-pool twice) + linear on 64 x 3 x 32 x 32, SGD with momentum."""
    nn = t.nn
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 8 * 8, 10),
    )
    x = t.from_numpy(rng.standard_normal((64, 3, 32, 32)).astype(np.float32))
    y = t.from_numpy(rng.integers(0, 10, 64))
    return _step(t, model, t.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
                 lambda m: nn.functional.cross_entropy(m(x), y))


WORK = {"chain": chain, "mlp": mlp, "gpt": gpt, "cnn": cnn}
