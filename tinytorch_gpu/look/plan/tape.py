"""Memory of a step that is not run: pieces come and go, a backward walks the nodes, the worst moment is kept.

What the engine does with arrays is done here with their sizes: a piece lives while somebody holds it, nodes hold what
they save, gradients wait in buffers until their node runs, newest first (autograd/engine.py).
"""
from __future__ import annotations

from collections import Counter, defaultdict

__all__ = ["Frame", "Node", "Piece", "Tape", "Value"]


class Piece:
    """One array's memory: `bytes` as the allocator counts them, whose they are, and how many hold it."""

    __slots__ = ("bytes", "owner", "label", "holds")

    def __init__(self, size, owner, label):
        self.bytes, self.owner, self.label, self.holds = size, owner, label, 1


class Node:
    """An operator that was applied. `saved` pieces are held until its backward has run; `rule(grad)` returns
    [(target, gradient), ...], whose pieces it hands over. `item` is the bytes of an element of its output: gradients
    arrive in them; `wide`: it widens them to float32, and what it saved. `again`: that was computed a second time, and
    nobody else holds it. `leaf`: a parameter's end of the graph, `label` the parameter's name."""

    __slots__ = ("name", "label", "item", "count", "saved", "rule", "frame", "again", "leaf", "wide", "mark")

    def __init__(self, name, label, item, count, rule=None, leaf=False, wide=False):
        self.name, self.label, self.item, self.count, self.rule, self.leaf = name, label, item, count, rule, leaf
        self.saved, self.frame, self.again, self.wide, self.mark = [], None, False, wide, None


class Value:
    """An array that a program holds: its memory, elements, bytes of one, and the node that made it."""

    __slots__ = ("piece", "count", "item", "node")

    def __init__(self, piece, count, item, node=None):
        self.piece, self.count, self.item, self.node = piece, count, item, node


class Frame:
    """A checkpoint: its function's nodes save nothing; the first that runs backward has the function run again."""

    def __init__(self, tape, function, kept: Value):
        self.tape, self.function, self.nodes, self.ran = tape, function, [], False
        self.kept = tape.hold(kept.piece)  # until the last of the nodes has run
        if kept.piece.owner == "values":
            tape.becomes(kept.piece, "saved", "checkpoint")

    def run(self):
        """The first run."""
        outer, self.tape.frame = self.tape.frame, self
        out = self.function(False)
        self.tape.frame = outer
        return out

    def run_again(self, node):
        """The second run, whose saved pieces are those of the first run's nodes."""
        if self.ran:
            return
        self.ran, tape = True, self.tape
        tape.at, tape.stage = ("backward", f"{tape.at[1]}, computed again"), "recomputed"
        outer, tape.nodes = tape.nodes, []
        self.function(True)
        again = [n for n in tape.nodes if n.saved]
        tape.nodes, tape.stage = outer, "backward"
        for first, second in zip(self.nodes, again, strict=True):
            first.saved, first.again = second.saved, True

    def leave(self, node):
        """A node of it has run."""
        self.nodes.remove(node)
        if not self.nodes:
            self.tape.drop(self.kept)


class Tape:
    """Bytes alive, by owner, and their worst moment. Sizes are rounded up to `block` bytes."""

    def __init__(self, block=1):
        self.block = block
        self.live = self.top = 0
        self.by: dict[str, int] = defaultdict(int)
        self.most: dict[str, int] = defaultdict(int)  # of each owner, at its own worst moment
        self.rows: dict[str, int] = {}  # of each owner, at the worst moment of all
        self.at, self.when = ("start", "start"), ("start", "start")
        self.nodes: list[Node] = []
        self.leaves: set[Node] = set()
        self.frame: Frame | None = None  # of the checkpoint whose function is running
        self.flops: Counter = Counter()  # of matrix products, by stage
        self.stage = "forward"
        self.pieces: dict[str, Counter] = defaultdict(Counter)  # owner -> bytes by label, of what is alive

    # memory

    def new(self, size, owner, label="") -> Piece:
        """A piece of so many bytes, held by whom asked for it."""
        piece = Piece(-(-int(size) // self.block) * self.block, owner, label)
        self._count(piece, piece.bytes)
        self.look()
        return piece

    def _count(self, piece, change):
        self.live += change
        self.by[piece.owner] += change
        self.pieces[piece.owner][piece.label] += change
        if self.by[piece.owner] > self.most[piece.owner]:
            self.most[piece.owner] = self.by[piece.owner]

    def hold(self, piece) -> Piece:
        piece.holds += 1
        return piece

    def drop(self, piece) -> None:
        piece.holds -= 1
        if not piece.holds:
            self._count(piece, -piece.bytes)

    def becomes(self, piece, owner, label) -> None:
        """From now on it is another's."""
        self._count(piece, -piece.bytes)
        piece.owner, piece.label = owner, label
        self._count(piece, piece.bytes)

    def brief(self, *sizes) -> None:
        """Temporary arrays that are there together, for a moment."""
        self.look(sum(-(-int(size) // self.block) * self.block for size in sizes))

    def look(self, workspace=0) -> None:
        """Keep this moment if it is the worst so far."""
        if workspace > self.most["workspace"]:
            self.most["workspace"] = workspace
        if self.live + workspace > self.top:
            self.top, self.when = self.live + workspace, self.at
            self.rows = {owner: size for owner, size in self.by.items() if size}
            if workspace:
                self.rows["workspace"] = self.rows.get("workspace", 0) + workspace

    # graph

    def mark(self, action) -> None:
        """Have something done when the backward comes by here."""
        made = Node("mark", "", 0, 0)
        made.mark = action
        self.nodes.append(made)

    def leaf(self, node) -> Node:
        """A parameter's end of the graph, where it is used first."""
        if node not in self.leaves:
            self.leaves.add(node)
            self.nodes.append(node)
        return node

    def node(self, name, label, item, count, saves=(), rule=None, wide=False) -> Node:
        """Record an operator; it holds the pieces that it saves, unless a checkpoint keeps it from it."""
        made = Node(name, label, item, count, rule, wide=wide)
        self.nodes.append(made)
        if saves and self.frame is not None:
            made.frame = self.frame
            self.frame.nodes.append(made)
            return made
        for piece in saves:
            made.saved.append(self.hold(piece))
            if piece.owner == "values":
                self.becomes(piece, "saved", name)
        return made

    def backward(self, root, start: Piece, finish) -> None:
        """Run the nodes, newest first. `finish(leaf, gradient)` takes over what arrives at a parameter."""
        buffers: dict[Node, list] = {root: [start, root.item]}
        for node in reversed(self.nodes):
            if node.mark is not None:
                node.mark()
            held = buffers.pop(node, None)
            if held is None:
                continue
            self.at = ("backward", f"{node.name} of {node.label}" if node.label else node.name)
            grad, item = held
            if node.leaf:
                finish(node, self.cast(grad, item, node.item, node.count))
                continue
            if isinstance(grad, Piece):
                grad = self.cast(grad, item, 4 if node.wide else node.item, node.count)
            if node.frame is not None:
                node.frame.run_again(node)
            out = node.rule(grad)
            self.release(node)
            if node.frame is not None:
                node.frame.leave(node)
            for piece in grad if isinstance(grad, list) else [grad]:
                self.drop(piece)
            self._deliver(buffers, out)
        self.nodes.clear()

    def release(self, node) -> None:
        """Drop what a node saves."""
        for piece in node.saved:
            self.drop(piece)
        node.saved = []

    def _deliver(self, buffers, out):
        for target, grad, item in out:
            if isinstance(grad, Piece):
                grad, item = self.cast(grad, item, target.item, target.count), target.item
            if target not in buffers:
                buffers[target] = [grad, item]
                continue
            other, before = buffers[target]  # the sum of two is in float32 until the node runs
            total = self.new(target.count * 4, "flowing")
            self.brief(*(target.count * 4 for size in (item, before) if size < 4))
            self.drop(other)
            self.drop(grad)
            buffers[target] = [total, 4]

    def cast(self, grad, item, wanted, count) -> Piece:
        """The gradient in elements of `wanted` bytes, in the place of what it was."""
        if item == wanted:
            return grad
        made = self.new(count * wanted, "flowing", grad.label)
        self.drop(grad)
        return made
