"""An operator's gradient as a formula, read off its own rule: the rule is run on Tensors, and what it recorded is
written down."""
from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass

from ...autograd.modes import enable_grad, state
from ...autograd.node import AccumulateGrad, endpoint
from ...autograd.operands import F32, HALF
from ...autograd.operator import Operator
from ...backend import dtypes
from ...backend.device import xp_of
from ...backend.kernel import use_kernels
from ...ops.registry import PUBLIC
from ...tensor import Tensor, make
from ..recorder import note_of, record
from ..terminal import shape_of

__all__ = ["Rule", "expression", "input_names", "key", "rule_of", "spoken"]

LONGEST = 110  # characters of a formula; longer ones explain nothing
INFIX = {"Add": ("+", 1), "Sub": ("-", 1), "Mul": ("*", 2), "Div": ("/", 2), "Gemm": ("@", 2), "Pow": ("**", 4)}
ATOM = 9


@dataclass
class Rule:
    """`formulas`: the gradient of each input, None where there is none or none is short; `why`: what kept it away."""

    inputs: list[str]
    outputs: list[str]
    formulas: list[str | None]
    why: str = ""


def spoken(name: str) -> str:
    """A class name as a function is called: LogSoftmax, log_softmax; by its public name where it has one."""
    known = _public().get(key(name))
    if known is not None:
        return known
    if name.endswith("Backward") and len(name) > 8:
        return spoken(name[:-8]) + "_backward"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def key(name: str) -> str:
    """A name without case and underscores."""
    return name.replace("_", "").lower()


@functools.cache
def _public() -> dict[str, str]:
    return {key(name): name for name in PUBLIC}


def input_names(node) -> list[str]:
    """What an operator calls its inputs: forward's parameters, or a, b, ..."""
    n = len(node.edges)
    if isinstance(node, Operator):
        found = list(inspect.signature(type(node).forward).parameters.values())[1:]
        if len(found) >= n and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in found[:n]):
            return [p.name for p in found[:n]]
    return ["x"] if n == 1 else ["a", "b"] if n == 2 else [f"x{i}" for i in range(n)]


def expression(name, operands, node=None) -> tuple[str, int]:
    """(text, how tightly it binds) of an operator on operands, each (text, binding)."""
    if name in INFIX and len(operands) == 2:
        sign, binds = INFIX[name]
        (a, left), (b, right) = operands
        if name == "Gemm" and node is not None:
            if node.ta:
                a, left = _wrapped(a, left, ATOM) + ".T", ATOM
            if node.tb:
                b, right = _wrapped(b, right, ATOM) + ".T", ATOM
        strict = sign != "+"  # a - (b - c), a * (b / c), a * (b @ c), but a + b + c
        if sign == "**":
            return f"{_wrapped(a, left, binds + 1)} ** {_wrapped(b, right, binds)}", binds
        return f"{_wrapped(a, left, binds)} {sign} {_wrapped(b, right, binds + strict)}", binds
    if name == "Where" and len(operands) == 2:  # the condition is a constant, no operand
        return f"where(condition, {operands[0][0]}, {operands[1][0]})", ATOM
    if name == "Neg":
        return f"-{_wrapped(operands[0][0], operands[0][1], 3)}", 3
    return f"{spoken(name)}({', '.join(text for text, _ in operands)})", ATOM


def _wrapped(text, binds, least) -> str:
    return text if binds >= least else f"({text})"


class _Arrays:
    """A watcher of look.record: which of the named arrays a rule handed to an operator as they are, not as Tensors."""

    def __init__(self, held, names):
        self.names = {id(t._array): names[id(t)] for t in held}
        self.found: dict[tuple, str] = {}  # (node, input) -> name

    def operator(self, node, note, args, outs) -> None:
        for i, a in enumerate(args):
            if id(a) in self.names:
                self.found[node, i] = self.names[id(a)]

    def gradients(self, note, sent, arrived) -> None:
        pass

    def leaf(self, note, grads) -> None:
        pass


class _TooLong(Exception):
    """A formula that no one would read."""


def rule_of(node) -> Rule:
    """The formulas of a node of a graph that is not freed. Runs its rule once; `.grad` and the graph stay as they are.

    Raises: RuntimeError when a backward has freed the node's saved values.
    """
    inputs = input_names(node)
    metas = node.metas if node.metas is not None else ((node.shape, node.dtype),)
    outputs = ["y"] if len(metas) == 1 else [f"y{i}" for i in range(len(metas))]
    rule = Rule(inputs, outputs, [None] * len(inputs))
    if not isinstance(node, Operator):
        rule.why = f"{node.name()} has a backward of its own, which is no formula"
        return rule
    names: dict[int, str] = {}
    held = []  # the Tensors whose ids are in `names`

    def named(array, name):
        t = make(array)
        t._req = dtypes.is_float(array.dtype)
        names[id(t)] = name
        held.append(t)
        return t

    values = []
    for value, ref in zip(node.unpack(True), getattr(node, "_refs", None) or ()):
        if isinstance(value, Tensor):
            name = "constant" if ref is None else inputs[ref] if ref >= 0 else outputs[-1 - ref]
            value = named(value._array, name)
        values.append(value)
    like = _library(node)
    grads = []
    for i, (shape, dtype) in enumerate(metas):
        dtype = F32 if node._widen and dtype in HALF else dtype
        grads.append(named(like.ones(shape, dtype), "grad" if len(metas) == 1 else f"grad{i}"))
    casts, state.autocast = state.autocast, None
    arrays = _Arrays(held, names)
    record.watch(arrays)
    try:
        with enable_grad(), use_kernels(False), record():
            node._tensors = tuple(values)
            out = node.backward(*grads)
    except (RuntimeError, NotImplementedError, TypeError) as e:
        rule.why = f"the rule does not run on Tensors: {e}"
        return rule
    finally:
        record.unwatch(arrays)
        node._tensors, state.autocast = None, casts
    for i, t in enumerate(out if isinstance(out, tuple) else (out,)):
        if node.edges[i] is None or t is None:
            continue
        try:
            rule.formulas[i] = _written(t, names, arrays.found)[0]
        except _TooLong:
            rule.why = "longer than a line: read the rule's source"
    return rule


def _library(node):
    """The array library of a graph: that of a leaf below the node."""
    while node.__class__ is not AccumulateGrad:
        node = endpoint(next(e for e in node.edges if e is not None))[0]
    return xp_of(node.variable._array)


def _written(value, names, arrays) -> tuple[str, int]:
    if not isinstance(value, Tensor):
        return f"{value}", ATOM
    if id(value) in names:
        return names[id(value)], ATOM
    if not value._req:
        return shape_of(value.dtype.name, value.shape), ATOM
    budget = [40]

    def write(node, output):
        if node.__class__ is AccumulateGrad:
            return names.get(id(node.variable), "constant"), ATOM
        budget[0] -= 1
        if budget[0] < 0:
            raise _TooLong
        note = note_of(node)
        operands = []
        for i, edge in enumerate(node.edges):
            given = note.inputs[i] if note is not None else "constant"
            if edge is not None:
                operands.append(write(*endpoint(edge)))
            elif (node, i) in arrays:
                operands.append((arrays[node, i], ATOM))
            elif given != "None":
                operands.append((shape_of(*given), ATOM) if isinstance(given, tuple) else (given, ATOM))
        if node.name() == "Cast":
            return operands[0]
        text, binds = expression(node.name(), operands, node)
        if len(text) > LONGEST:
            raise _TooLong
        return (text, binds) if node.metas is None else (f"{text}[{output}]", ATOM)

    return write(*endpoint(value._edge()))
