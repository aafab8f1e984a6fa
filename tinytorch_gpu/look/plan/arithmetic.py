"""What each operator of a transformer's train step holds, takes for a moment and saves, as sizes; and its products.

Each method is one operator of `ops/`, forward and backward, read off its class there: on the CPU the formula, in which
half types are computed in float32; on a GPU the kernels. N is the number of tokens, batch * sequence.
"""
from __future__ import annotations

from .tape import Node, Piece, Tape, Value

__all__ = ["Arithmetic"]

F32, INDEX = 4, 8
GELU_BLOCK = 65536  # elements that ops/gelu.py computes at a time on the CPU
NORM_ROWS, NORM_SHARED = 512, 48 << 10  # blocks of backend/kernel_rows.py's norm_backward, bytes that it sums in


class Arithmetic:
    """Operators on sizes. `gpu`: by the kernels; `threads`: how many pieces of an operator the CPU computes at once;
    `half`: bytes of an element that autocast casts to (2), or None without autocast; `gathered`: weights come from
    other devices cast already, and no cast of theirs is kept."""

    def __init__(self, tape: Tape, gpu: bool, threads: int, half: int | None, gathered: bool):
        self.tape, self.gpu, self.threads, self.half, self.gathered = tape, gpu, threads, half, gathered
        self.casts: dict[Node, Value] = {}  # weights that autocast has cast already
        self.where = ""  # what is computed, for labels

    # pieces

    def made(self, count, item, node=None) -> Value:
        return Value(self.tape.new(count * item, "values", self.where), count, item, node)

    def free(self, *values) -> None:
        for v in values:
            self.tape.drop(v.piece)

    def narrow(self, item) -> bool:
        """Whether an operator in elements of these bytes widens them to float32 on the CPU."""
        return item < F32 and not self.gpu

    def _widened(self, node, *counts) -> list[Piece]:
        """What a node saved, in float32. What was computed again is gone then, for nobody else holds it."""
        made = [self._flow(count, F32) for count in counts]
        if node.again:
            self.tape.release(node)
        return made

    def _flow(self, count, item) -> Piece:
        return self.tape.new(count * item, "flowing")

    def _node(self, name, out: Value, saves, rule, wide=False) -> Value:
        out.node = self.tape.node(name, self.where, out.item, out.count, saves, rule, wide)
        return out

    # operators

    def cast(self, x: Value, item) -> Value:
        """Cast: saves nothing; the gradient is cast back."""
        out = self.made(x.count, item)
        return self._node("Cast", out, (), lambda grad: [(x.node, self.tape.hold(grad), item)])

    def weight(self, w: Value) -> Value:
        """A parameter as autocast's operators take it: cast once, and held until autocast ends."""
        self.tape.leaf(w.node)
        if self.half is None or w.item == self.half:
            return w
        found = self.casts.get(w.node)
        if found is None:
            taken = Value(w.piece, 0, w.item, w.node) if self.gathered else w
            found = self.casts[w.node] = self.cast(taken, self.half)
            found.node.count = found.count = w.count
            self.tape.becomes(found.piece, "casts", w.node.label)
        return found

    def forget_casts(self) -> None:
        """The end of autocast."""
        self.free(*self.casts.values())
        self.casts = {}

    def embedding(self, table: Value, rows, tokens, width) -> Value:
        """Rows of the table; saves the numbers, which are there anyway. Its gradient is a whole table."""
        self.tape.leaf(table.node)
        out = self.made(tokens * width, table.item)

        def rule(grad):
            if self.gpu:  # the sorted numbers, and sums of 16 of them
                self.tape.brief(tokens * INDEX, -(-tokens // 16) * 2 * width * F32, rows * width * table.item)
            elif table.item < F32:
                self.tape.brief(tokens * width * F32, rows * width * F32, rows * width * table.item)
            return [(table.node, self._flow(rows * width, table.item), table.item)]

        return self._node("Embedding", out, (), rule)

    def add(self, a: Value, b: Value, broadcast=False) -> Value:
        """a + b; saves nothing. Both get the same gradient; one that was broadcast its sum."""
        item = max(a.item, b.item)
        temporary = [v.count * F32 for v in (a, b) if v.item < F32]  # widened by array operations on every device
        if item < F32:
            temporary.append(a.count * F32)  # the sum before it is rounded
        out = self.made(a.count, item)
        self.tape.brief(*temporary)

        def rule(grad):
            gb = self._flow(b.count, F32) if broadcast else self.tape.hold(grad)
            return [(a.node, self.tape.hold(grad), F32), (b.node, gb, F32)]

        return self._node("Add", out, (), rule, item < F32)

    def norm(self, x: Value, weight: Value, bias: Value, width) -> Value:
        """LayerNorm: saves x, and the mean and 1/deviation of each row in float32."""
        rows = x.count // width
        for parameter in (weight, bias):
            self.tape.leaf(parameter.node)
        out = self.made(x.count, x.item)
        if self.narrow(x.item):
            self.tape.brief(x.count * F32, x.count * F32)
        statistics = self.tape.new(2 * rows * F32, "values", self.where)
        item = F32 if self.narrow(x.item) else x.item

        def rule(grad):
            if self.narrow(x.item):
                (wide,) = self._widened(out.node, x.count)
                made = self._flow(x.count, item)
                self.tape.brief(2 * x.count * F32)
                self.tape.drop(wide)
            else:
                made = self._flow(x.count, item)
                if not self.gpu:  # x less its mean, and that times the gradient
                    self.tape.brief(2 * x.count * F32)
                elif width * 2 * F32 <= NORM_SHARED:
                    self.tape.brief(2 * min(rows, NORM_ROWS) * width * F32)
            return [(x.node, made, item), (weight.node, self._flow(width, item), item),
                    (bias.node, self._flow(width, item), item)]

        out = self._node("LayerNorm", out, (x.piece, statistics), rule, self.narrow(x.item))
        self.tape.drop(statistics)
        return out

    def linear(self, x: Value, weight: Value, bias: Value | None, inside, outside) -> Value:
        """x W^T + b: saves x, and W, which only counts where autocast has cast it."""
        held = self.cast(x, self.half) if self.half is not None and x.item != self.half else x
        w, b = self.weight(weight), None if bias is None else self.weight(bias)
        tokens, item = x.count // inside, held.item
        if self.narrow(item):
            self.tape.brief(held.count * F32, inside * outside * F32, tokens * outside * F32)
        out = self.made(tokens * outside, item)
        if self.narrow(item):
            self.tape.brief(tokens * outside * F32)
        self._product(tokens, inside, outside)

        def rule(grad):
            found = []
            for target, count, operand in ((held.node, held.count, inside * outside), (w.node, inside * outside,
                                                                                        held.count)):
                if self.narrow(item):
                    self.tape.brief(tokens * outside * F32, operand * F32, count * F32)
                    self.tape.brief(count * F32, count * item)
                found.append((target, self._flow(count, item), item))
                self._product(tokens, inside, outside)
            if b is not None:
                if self.narrow(item):
                    self.tape.brief(tokens * outside * F32)
                found.append((b.node, self._flow(outside, item), item))
            return found

        out = self._node("Linear", out, (held.piece, w.piece), rule)
        if held is not x:
            self.free(held)
        return out

    def _product(self, rows, inside, columns, times=1):
        self.tape.flops[self.tape.stage] += 2 * rows * inside * columns * times

    def heads(self, qkv: Value) -> Value:
        """Split, Reshape and Transpose, views all; the three gradients are brought into order and joined."""
        third = qkv.count // 3

        def rule(grads):
            for _ in grads:  # from (batch, heads, time, dim) back to (batch, time, width)
                self.tape.brief(third * qkv.item)
            return [(qkv.node, self._flow(qkv.count, qkv.item), qkv.item)]

        view = Value(self.tape.hold(qkv.piece), qkv.count, qkv.item)
        return self._node("Split", view, (), rule)

    def attention(self, qkv: Value, batch, heads, time) -> Value:
        """softmax(q k^T) v: saves q, k, v and the probabilities (batch, heads, time, time)."""
        item, count, scores = qkv.item, qkv.count // 3, batch * heads * time * time
        width = count // (batch * time)
        out, probs = self.made(count, item), self.made(scores, item)
        if self.gpu:
            self.tape.brief(scores * F32)
        else:  # a sample's scaled queries, scores and masked scores
            piece = min(self.threads, batch) * (time * width + 2 * heads * time * time) * F32 + time * time
            if item < F32:  # in float32 throughout, and rounded at the end: the narrow ones are counted already
                piece = (4 * count + scores) * F32 + max(0, piece - (scores + count) * item)
            self.tape.brief(piece)
        self._product(batch * time, width, time, 2)
        wide = self.narrow(item)
        grads = F32 if wide else item

        def rule(grad):
            held = self._widened(out.node, 3 * count, scores) if wide else []
            gv, g, gs = self._flow(count, grads), self._flow(scores, grads), self._flow(scores, grads)
            gq, gk = self._flow(count, grads), self._flow(count, grads)
            if not self.gpu:  # scaled in new arrays
                self.tape.brief(2 * count * F32)
            for piece in (g, gs, *held):
                self.tape.drop(piece)
            self._product(batch * time, width, time, 4)
            if not wide:
                return [(qkv.node, [gq, gk, gv], item)]
            return [(qkv.node, [self.tape.cast(p, F32, item, count) for p in (gq, gk, gv)], item)]

        out = self._node("Attention", out, (qkv.piece, probs.piece), rule, wide)
        self.free(probs)
        return out

    def merge(self, x: Value) -> Value:
        """Transpose and Reshape: a copy in the order of the tokens; backward a view."""
        out = self.made(x.count, x.item)
        return self._node("Reshape", out, (), lambda grad: [(x.node, self.tape.hold(grad), x.item)])

    def gelu(self, x: Value) -> Value:
        """x Phi(x): saves x."""
        out = self.made(x.count, x.item)
        scratch = 0 if self.gpu else min(x.count, GELU_BLOCK * self.threads) * F32
        wide = self.narrow(x.item)
        self.tape.brief(2 * x.count * F32 + max(0, scratch - x.count * x.item) if wide else scratch)

        def rule(grad):
            if wide:
                (held,), made = self._widened(out.node, x.count), self._flow(x.count, F32)
                self.tape.brief(2 * scratch)
                self.tape.drop(held)
                return [(x.node, made, F32)]
            made = self._flow(x.count, x.item)
            self.tape.brief(2 * scratch)
            return [(x.node, made, x.item)]

        return self._node("GELU", out, (x.piece,), rule, wide)

    def cross_entropy(self, logits: Value, tokens) -> Value:
        """Saves the logits, and the logarithm of each row's sum."""
        x = self.cast(logits, F32) if self.half is not None and logits.item < F32 else logits
        wide = self.narrow(x.item)
        rows = self.tape.new(tokens * F32, "logits", "CrossEntropy")
        if not self.gpu:  # shifted by the largest; places of the targets
            self.tape.brief(x.count * F32, x.count * F32 if wide else 0, 3 * tokens * INDEX)
        else:
            self.tape.brief(tokens * F32)

        def rule(grad):
            if wide:
                held, made = self._flow(x.count, F32), self._flow(x.count, F32)
                self.tape.drop(held)
                return [(x.node, made, F32)]
            return [(x.node, self._flow(x.count, x.item), x.item)]

        self.tape.becomes(x.piece, "logits", "CrossEntropy")
        out = self._node("CrossEntropy", self.made(1, F32), (x.piece, rows), rule, wide)
        self.tape.drop(rows)
        if x is not logits:
            self.free(x)
        return out
