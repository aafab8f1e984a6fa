"""A train step of a plan's transformer, written down with sizes: what is alive when, and where the peak is."""
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ...backend import threads
from .arithmetic import F32, INDEX, Arithmetic
from .config import PlanConfig
from .tape import Frame, Node, Piece, Tape, Value

__all__ = ["Outcome", "predict"]

POOL = 512  # bytes: blocks of CuPy's pool
STATES = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}  # float32 numbers of the optimizer for each parameter
BLOCK, DIRECT = 1 << 15, 1 << 12  # elements of optim/blocks.py: of a block, of a parameter that is updated in its place


@dataclass
class Outcome:
    """The figures of one step: bytes at the peak by owner, at most by owner, and matrix products by stage."""

    peak: int
    when: tuple
    rows: dict
    most: dict
    saved: dict
    flops: dict


class Step:
    """One step of `config`'s training; every method does what the line of that name in plan_model.py does."""

    def __init__(self, config: PlanConfig, gpu: bool, cores: int | None = None):
        self.config, self.gpu = config, gpu
        self.item = F32 if config.weights == "float32" else 2
        half = 2 if config.precision != "fp32" and config.weights == "float32" else None
        self.tape = Tape(POOL if gpu else 1)
        self.cores = len(threads.split(1 << 20)) if cores is None else cores
        self.op = Arithmetic(self.tape, gpu, self.cores, half, config.stage == 3)
        self.tokens = config.batch * config.sequence
        self.all: list[Value] = []  # parameters

    # parameters and what belongs to them

    def share(self, stage) -> int:
        """Over how many devices a stage of ZeRO cuts."""
        return self.config.shards if self.config.stage >= stage else 1

    def parameter(self, count, label) -> Value:
        size = -(-count // self.share(3)) * self.item
        node = Node("AccumulateGrad", label, self.item, count, leaf=True)
        value = Value(self.tape.new(size, "parameters", label), count, self.item, node)
        self.all.append(value)
        return value

    def build(self) -> None:
        """Parameters, the optimizer's state, the batch."""
        c = self.config
        w, h = c.width, c.hidden
        self.tokens_table = self.parameter(c.vocabulary * w, "token embedding")
        self.places = self.parameter(c.context * w, "positions")
        self.blocks = []
        for i in range(c.layers):
            names = {"norm1.w": w, "norm1.b": w, "qkv.w": 3 * w * w, "qkv.b": 3 * w, "out.w": w * w, "out.b": w,
                     "norm2.w": w, "norm2.b": w, "up.w": h * w, "up.b": h, "down.w": w * h, "down.b": w}
            self.blocks.append({name: self.parameter(count, f"block {i + 1}") for name, count in names.items()})
        self.norm = [self.parameter(w, "last norm") for _ in range(2)]
        self.head = self.tokens_table if c.tied else self.parameter(c.vocabulary * w, "output layer")
        self.tape.new(self.tokens * INDEX, "inputs", "tokens")
        self.tape.new(self.tokens * INDEX, "inputs", "targets")
        total, cut = sum(p.count for p in self.all), self.share(1)
        for name in range(STATES[c.optimizer]):
            self.tape.new(-(-total // cut) * F32, "optimizer", f"state {name + 1}")
        if c.weights == "master":
            self.tape.new(-(-total // cut) * F32, "optimizer", "master weights")
        if not self.gpu:
            self.tape.new(sum(self.scratch()) * F32, "scratch")

    def scratch(self) -> tuple[int, int]:
        """Elements of the CPU's optimizer: two arrays of a block, two of a gathered one (optim/blocks.py)."""
        largest, gathered, run = 0, 0, 0
        for count in sorted(-(-p.count // self.share(1)) for p in self.all):
            if count >= DIRECT and self.item == F32:
                run, pieces = 0, -(-count // BLOCK)
                edges = [*(count * k // pieces // 16 * 16 for k in range(pieces)), count]
                largest = max(largest, *(b - a for a, b in pairwise(edges)))
            else:
                run = count if run + count > BLOCK else run + count
                largest, gathered = max(largest, run), max(gathered, run)
        return 2 * largest, 2 * gathered

    # forward

    def gathered(self, values):
        """Stage 3: a module's parameters are brought together from all shards, in the dtype that computes, while it
        runs forward, and again while its backward runs. Returns what ends the first."""
        if self.share(3) == 1:
            return lambda: None
        size = sum(v.count for v in values) * (self.op.half or self.item)
        name, held = self.op.where, []

        def begin():
            held.append(self.tape.new(size, "gathered", name))

        def end():
            self.tape.drop(held.pop())

        self.tape.mark(end)
        begin()

        def left():
            end()
            self.tape.mark(begin)

        return left

    def block(self, x: Value, p: dict, name: str, again: bool = False) -> Value | None:
        """Block.forward: its locals q, k, v, a and the caller's x live to its end."""
        c, op, tape = self.config, self.op, self.tape
        op.where = name
        stage = tape.at[0]
        if not again:
            tape.at = (stage, f"attention of {name}")
        left = (lambda: None) if again else self.gathered(p.values())
        normed = op.norm(x, p["norm1.w"], p["norm1.b"], c.width)
        qkv = op.linear(normed, p["qkv.w"], p["qkv.b"], c.width, 3 * c.width)
        op.free(normed)
        views = op.heads(qkv)
        op.free(qkv)
        if c.checkpointing == "selective":
            a = self.checkpoint(lambda _: op.attention(views, c.batch, c.heads, c.sequence), views)
        else:
            a = op.attention(views, c.batch, c.heads, c.sequence)
        merged = op.merge(a)
        mixed = op.linear(merged, p["out.w"], p["out.b"], c.width, c.width)
        op.free(merged)
        middle = op.add(x, mixed)
        op.free(mixed)
        if not again:
            tape.at = (stage, f"network of {name}")
        normed = op.norm(middle, p["norm2.w"], p["norm2.b"], c.width)
        up = op.linear(normed, p["up.w"], p["up.b"], c.width, c.hidden)
        op.free(normed)
        bent = op.gelu(up)
        op.free(up)
        down = op.linear(bent, p["down.w"], p["down.b"], c.hidden, c.width)
        op.free(bent)
        out = None if again else op.add(middle, down)  # the second run ends with the last value that is saved
        op.free(down, middle, a, views)
        left()
        return out

    def checkpoint(self, function, kept: Value):
        """utils.checkpoint: what it was called with stays until its backward is done; a second run casts anew."""

        def run(again):
            if not again:
                return function(False)
            outer, self.op.casts = self.op.casts, {}
            found = function(True)
            if found is not None:
                self.op.free(found)
            self.op.forget_casts()
            self.op.casts = outer
            return None

        return Frame(self.tape, run, kept).run()

    def forward(self) -> Node:
        """Transformer.forward and the loss; the node of the loss."""
        c, op, tape = self.config, self.op, self.tape
        tape.at, op.where = ("forward", "embedding"), "tokens"
        left = self.gathered([self.tokens_table, self.places])
        one = op.embedding(self.tokens_table, c.vocabulary, self.tokens, c.width)
        op.where = "positions"
        two = op.embedding(self.places, c.context, c.sequence, c.width)
        x = op.add(one, two, broadcast=True)
        op.free(one, two)
        left()
        for i, p in enumerate(self.blocks):
            if c.checkpointing == "full":
                y = self.checkpoint(lambda again, x=x, p=p, i=i: self.block(x, p, f"block {i + 1}", again), x)
            else:
                y = self.block(x, p, f"block {i + 1}")
            op.free(x)
            x = y
        tape.at, op.where = ("forward", "output layer"), "output layer"
        left = self.gathered([*self.norm, self.head])
        weight, bias = self.norm
        normed = op.norm(x, weight, bias, c.width)
        logits = op.linear(normed, self.head, None, c.width, c.vocabulary)
        op.free(normed, x)
        left()
        tape.at, op.where = ("forward", "cross-entropy"), "loss"
        tape.becomes(logits.piece, "logits", "logits")
        loss = op.cross_entropy(logits, self.tokens)
        op.free(logits)
        op.forget_casts()
        return loss.node

    # backward and update

    def finish(self, leaf: Node, grad: Piece) -> None:
        """A gradient that has arrived: stage 2 keeps a share of it."""
        if self.share(2) > 1:
            part = self.tape.new(-(-leaf.count // self.share(2)) * self.item, "gradients", leaf.label)
            self.tape.drop(grad)
            self.grads.append(part)
            return
        self.tape.becomes(grad, "gradients", leaf.label)
        self.grads.append(grad)

    def run(self) -> Outcome:
        c, tape = self.config, self.tape
        self.grads: list[Piece] = []
        self.build()
        root = self.forward()
        saved = dict(tape.pieces["saved"]) | {"CrossEntropy": tape.by["logits"]}
        tape.stage, tape.at = "backward", ("backward", "loss")
        tape.backward(root, tape.new(F32, "flowing"), self.finish)
        tape.at = ("optimizer", f"{c.optimizer}.step")
        self.update()
        return Outcome(tape.top, tape.when, tape.rows, {k: v for k, v in tape.most.items() if v},
                       {k: v for k, v in saved.items() if v}, dict(tape.flops))

    def update(self) -> None:
        """What GradScaler and the CPU's optimizer take beside the state."""
        if self.gpu:
            return
        cut = self.share(1)
        largest = max(-(-p.count // cut) for p in self.all)
        if self.config.precision == "fp16":  # which gradients are finite, one array at a time
            self.tape.brief(largest, largest * F32 if self.item < F32 else 0)
        if self.config.weights == "master":  # the masters rounded and widened, beside the weights
            self.tape.brief(self.scratch()[1] // 2 * (self.item + F32))


def predict(config: PlanConfig, gpu: bool, cores: int | None = None) -> Outcome:
    """The figures of one train step. `cores`: of the CPU, those that operators use here unless given."""
    return Step(config, gpu, cores).run()
