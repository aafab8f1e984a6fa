"""`tinytorch-gpu train gpt`: a decoder-only transformer that learns to write text, byte by byte."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

import tinytorch_gpu as tt
from tinytorch_gpu import nn

from .command import guarded
from .corpus import Corpus
from .precision import autocast_for, precision_option, scaler_for, update
from .run import Run, warmup_cosine
from .settings import UserError, option, parse

F = nn.functional


@dataclass
class Settings:
    """Train a decoder-only transformer on bytes of text: Python's own source, or --data."""

    data: str = option("", "text file, or folder of text files, to learn instead of Python's source", later=True)
    out: str = option("", "folder of the run; runs/gpt-1, runs/gpt-2, ... where none is named", later=True)
    resume: bool = option(False, "continue the run in --out, or the last one; ends in the same weights", later=True)
    report: bool = option(False, "note graph, memory, profile, gradients of some steps; write report.html", later=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or sim", later=True)
    seed: int = option(0, "seed of the weights and the order of the data", least=0, most=2**32 - 1)
    precision: str = precision_option()
    layers: int = option(2, "transformer blocks", gpu=6, least=1)
    dim: int = option(128, "width of the model", gpu=384, least=1)
    heads: int = option(4, "attention heads", gpu=6, least=1)
    context: int = option(128, "bytes that the model looks back on", gpu=256, least=1)
    ngrams: int = option(4, "bytes in the longest n-gram that has an embedding; 1 for none", least=1, most=6)
    table: int = option(8192, "rows in each n-gram table", gpu=16384, least=1)
    dropout: float = option(0.0, "chance of dropping an activation", gpu=0.1, least=0, most=0.99)
    batch: int = option(8, "windows of text in a step", gpu=32, least=1)
    steps: int = option(1900, "steps of training", gpu=4000, least=1)
    lr: float = option(2e-3, "highest learning rate", gpu=1e-3, least=0)
    warmup: int = option(60, "steps of rising learning rate; it then falls along a cosine", gpu=200, least=0)
    weight_decay: float = option(0.1, "AdamW's weight decay, of matrices only", least=0)
    clip: float = option(1.0, "largest norm of the gradient", least=0)
    log_every: int = option(10, "steps between rows of metrics.csv", gpu=20, least=1)
    validate_every: int = option(250, "steps between looks at held-out text", least=1)
    save_every: int = option(100, "steps between checkpoints", gpu=500, least=1, later=True)
    prompt: str = option("def ", "text that the sample begins with", later=True)
    sample: int = option(400, "bytes of text to write at the end", least=0, later=True)
    temperature: float = option(0.7, "of the sample: near 0 for the likeliest bytes", least=0.01, later=True)


class Block(nn.Module):
    """Attention and a multi-layer perceptron, each on a normalized copy of the stream (batch, time, dim)."""

    def __init__(self, s: Settings):
        super().__init__()
        self.heads, self.drop = s.heads, s.dropout
        self.norm1, self.norm2 = nn.RMSNorm(s.dim), nn.RMSNorm(s.dim)
        self.qkv = nn.Linear(s.dim, 3 * s.dim, bias=False)
        self.out = nn.Linear(s.dim, s.dim, bias=False)
        self.up = nn.Linear(s.dim, 4 * s.dim, bias=False)
        self.down = nn.Linear(4 * s.dim, s.dim, bias=False)

    def forward(self, x, bias):
        batch, time, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3 * self.heads, dim // self.heads)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = self.out(y.transpose(1, 2).reshape(batch, time, dim))
        x = x + F.dropout(y, self.drop, self.training)
        y = F.relu(self.up(self.norm2(x)))
        y = self.down(y * y)  # squared ReLU (So et al. 2021, "Primer"): 0.02 bits per byte better than GELU's kin here
        return x + F.dropout(y, self.drop, self.training)


class GPT(nn.Module):
    """Bytes (batch, time) to logits (batch, time, 256); the table of byte embeddings is also the output layer.

    A byte's embedding is joined by those of the n-grams that end with it, hashed into small tables (as in Pagnoni et
    al. 2024, "Byte Latent Transformer"): they cost no matrix product, and at this size they are worth 0.45 bits.
    """

    def __init__(self, s: Settings):
        super().__init__()
        self.table = s.table
        self.bytes = nn.Embedding(256, s.dim)
        self.ngrams = nn.ModuleList(nn.Embedding(s.table, s.dim) for _ in range(s.ngrams - 1))
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.dim)
        # each head's attention falls with the distance back, at a rate of its own (ALiBi, Press et al. 2022), and never
        # looks forward; 0.2 bits per byte better than learned positions here
        back = np.arange(s.context)[:, None] - np.arange(s.context)
        rates = 2.0 ** (-8 * np.arange(s.heads) / s.heads)[:, None, None]
        bias = np.where(back < 0, -np.inf, -back * rates).astype(np.float32)
        self.register_buffer("bias", tt.tensor(bias), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                into_stream = name.endswith(("out.weight", "down.weight"))
                fan = p.shape[1] * (2 * s.layers if into_stream else 1)
                nn.init.normal_(p, 0.0, 1 / math.sqrt(fan) if name.startswith("blocks") else 0.02)

    def forward(self, text):
        time = text.shape[1]
        x, code = self.bytes(text), text
        for back, table in enumerate(self.ngrams, 1):
            code = (code * 257 + F.pad(text, (back, 0))[:, :time] + 1) % 2147483647
            x = x + table(code * 1000003 % 2147483647 % self.table)
        for block in self.blocks:
            x = block(x, self.bias[:, :time, :time])
        return F.linear(self.norm(x), self.bytes.weight)


def optimizer_for(model, s: Settings):
    """AdamW that decays the blocks' matrices, with a linear warm-up and a cosine down to nothing."""
    decayed = [p for p in model.blocks.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is d for d in decayed)]
    groups = [{"params": decayed, "weight_decay": s.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = tt.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.95))
    return optimizer, tt.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, s.warmup, s.steps))


def held_out_bits(model, corpus, device, s: Settings, limit=None) -> float:
    """Bits per held-out byte; each byte is predicted from at least half a context, but for the first ones."""
    model.eval()
    total = count = 0.0
    with tt.no_grad(), autocast_for(device, s.precision):
        for inputs, targets, counted in corpus.held_windows(s.context, max(1, s.context // 2), 4 * s.batch, limit):
            logits = model(tt.tensor(inputs, device=device)).view(-1, 256)
            losses = F.cross_entropy(logits, tt.tensor(targets, device=device).view(-1), reduction="none")
            total += (losses * tt.tensor(counted, device=device).view(-1)).sum().item()
            count += counted.sum()
    model.train()
    return total / count / math.log(2)


def write(model, device, s: Settings) -> str:
    """`--sample` bytes of text after `--prompt`, drawn byte by byte."""
    model.eval()
    random = np.random.default_rng(s.seed)
    text = list(s.prompt.encode()) or [10]
    with tt.no_grad():
        for _ in range(s.sample):
            logits = model(tt.tensor([text[-s.context :]], device=device))[0, -1].tolist()
            # the largest of logits + Gumbel noise is a draw from their softmax
            text.append(int(np.argmax(np.array(logits) / s.temperature + random.gumbel(size=256))))
    return bytes(text).decode("utf-8", "replace")


@guarded
def main(argv) -> int:
    """Trains, or continues with --resume; returns the exit status (130 after Ctrl-C)."""
    run = Run("gpt", Settings, parse(Settings, argv, "tinytorch-gpu train gpt"), "tokens", loss="bits per byte")
    s, device = run.settings, run.device
    if s.dim % s.heads:
        raise UserError(f"[settings] --dim {s.dim} does not divide into --heads {s.heads}: make it a multiple")
    corpus = Corpus(s.data)
    corpus.require(s.context)
    print(corpus)

    tt.manual_seed(s.seed)
    model = GPT(s).to(device)
    optimizer, scheduler = optimizer_for(model, s)
    scaler = scaler_for(device, s.precision)
    run.begin(corpus.fingerprint, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {s.batch * s.context:,} tokens a step, {run.folder}")

    tokens = 0
    with run:
        for step in run.steps():
            inputs, targets = (tt.tensor(a, device=device) for a in corpus.batch(s.seed, step, s.batch, s.context))
            with autocast_for(device, s.precision):
                loss = F.cross_entropy(model(inputs).view(-1, 256), targets.view(-1))
            lr = optimizer.param_groups[0]["lr"]
            norm = update(loss, model, optimizer, scaler, s.clip)
            scheduler.step()
            tokens += s.batch * s.context
            row = {}
            if step % s.validate_every == 0:
                with run.paused():
                    row["held_out"] = held_out_bits(model, corpus, device, s, limit=16384)
            if row or run.due(s.log_every):
                run.log(tokens, loss=loss.item() / math.log(2), lr=lr, grad_norm=norm.item(), **row)
                tokens = 0
            if run.due(s.save_every):
                run.save()
    if run.stopped:
        return run.farewell()

    run.draw("bits per byte", held_out="held out")
    bits = held_out_bits(model, corpus, device, s)
    others = ", ".join(f"{name} {value:.3f}" for name, value in corpus.compressed().items())
    print(f"held-out bits per byte: {bits:.3f} after {run.seconds:.0f} s of training")
    print(f"({others}, each compressing the same {len(corpus.held):,} bytes, joined, on their own)")
    if s.sample:
        print(f"--- a sample after {s.prompt!r} ---\n{write(model, device, s)}")
    return 0
