"""What tells the memory ledger of a backward: the engine's steps, inside wrappers of theirs."""
from __future__ import annotations

import functools
import threading

from ...autograd import engine
from ...autograd.node import AccumulateGrad, endpoint
from ...autograd.operator import FREED, Operator
from ...backend.device import is_array
from ...tensor import Tensor
from ..replaced import Replaced
from ..saved import kept_of
from .ledger import ARRIVES, BACK, BACKWARD, CAST, FLOWING, GRADIENTS, LEAF, RAN, REACHES, SENT, SUM, TEXT, own

__all__ = ["Backward"]

class _Depth(threading.local):
    running = 0  # calls of the engine in this thread, one inside the other


class Backward:
    """Stands around the engine's functions for a `Watcher`, until `close`."""

    def __init__(self, watcher):
        self.watcher, self.ledger = watcher, watcher.ledger
        self._depth = _Depth()
        self._fitted = 0  # of the last node: the bits of the gradients that the engine casts or sums to a shape
        self._engine: list = []  # what the three stand around
        self._replaced = Replaced()
        for name, runs in (("_step", self._step_runs), ("_leaf", self._leaf_runs), ("_after", self._step_ran)):
            self._replaced.replace(engine, name, functools.partial(self._around, runs))

    @property
    def running(self) -> bool:
        """Whether the engine is at work in this thread."""
        return self._depth.running > 0

    def close(self) -> None:
        self._replaced.put_back()

    def _around(self, runs, was):
        self._engine.append(was)
        return runs

    def _step_runs(self, node, value, buffers, *args):
        self._arrives(node, value, BACKWARD, REACHES)
        given, value = [value], None  # nothing here may hold a gradient that a leaf could own
        self._depth.running += 1
        try:
            self._engine[0](node, given.pop(), buffers, *args)
        finally:
            self._depth.running -= 1
        self._stepped(node, buffers)

    def _leaf_runs(self, node, value, create_graph):
        self._arrives(node, value, BACKWARD, LEAF)
        given, value = [value], None
        self._depth.running += 1
        try:
            self._engine[1](node, given.pop(), create_graph)
        finally:
            self._depth.running -= 1
        self._accumulated(node)

    def _step_ran(self, node, out, given, create_graph):
        self._sends(node, out, given)
        return self._engine[2](node, out, given, create_graph)

    def _number(self, node):
        """An operator's number, a new one where it was recorded while nobody looked."""
        ref = self.ledger.nodes.get(id(node))
        if ref is not None:
            return ref.number
        return self.ledger.watch(node, self.ledger.text(node.name()), end=node.__class__ is AccumulateGrad)

    @own
    def _arrives(self, node, value, stage, kind):
        number = self._number(node)
        for g in value if value.__class__ is list else (value,):
            if g is not None:
                array = g._array if isinstance(g, Tensor) else g
                if kind == REACHES:
                    self.watcher.see(array, FLOWING, ARRIVES, number)
                else:
                    name = self.watcher.name_of(node.variable)
                    self.watcher.see(array, FLOWING, TEXT, self.ledger.text(f"arrives at {name}"))
        self.watcher.stage = stage
        self.ledger.event(stage, kind, number)

    @own
    def _sends(self, node, out, given):
        number = self._number(node)
        self.ledger.note(RAN, number)
        for g in given if node._widen else ():  # a half type is widened for its rule
            if g is not None:
                self.watcher.see(g._array if isinstance(g, Tensor) else g, FLOWING, ARRIVES, number)
        self._fitted = 0
        for i, (edge, g) in enumerate(zip(node.edges, out)):
            array = g._array if isinstance(g, Tensor) else g
            if not is_array(array):
                continue
            leaf, output = (None, 0) if edge is None else endpoint(edge)
            if leaf is not None:
                shape, dtype = (leaf.shape, leaf.dtype) if leaf.metas is None else leaf.metas[output]
                if shape != array.shape or dtype != array.dtype:
                    self._fitted |= 1 << i
            if leaf.__class__ is AccumulateGrad and leaf.shape == array.shape and leaf.dtype == array.dtype:
                self.watcher.see(array, GRADIENTS, TEXT, self.ledger.text(self.watcher.name_of(leaf.variable)))
            else:
                self.watcher.see(array, FLOWING, SENT, number)
        self.ledger.event(BACKWARD, BACK, number)

    @own
    def _stepped(self, node, buffers):
        """The engine has freed what a node saved, and fitted and added what it sent."""
        ledger = self.ledger
        number = self._number(node)
        if ledger.saving[number] and (node._saved is FREED if isinstance(node, Operator) else kept_of(node) is None):
            ledger.released(number)
        for k, edge in enumerate(node.edges):
            if edge is not None:
                target, i = edge if edge.__class__ is tuple else (edge, 0)
                value = buffers.get(target)
                value = value[i] if value.__class__ is list else value
                if value is not None:
                    array = value._array if value.__class__ is Tensor else value
                    if id(array) not in ledger.pieces:
                        self.watcher.see(array, FLOWING, CAST if self._fitted >> k & 1 else SUM, self._number(target))

    @own
    def _accumulated(self, leaf):
        if leaf.variable._grad is not None:
            self.watcher.named(leaf.variable._grad._array, GRADIENTS, leaf.variable)
