"""An operator's gradient as a formula, read off its own rule: the rule is run on Tensors, and what it recorded is
written down."""
from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass

from ...autograd.modes import inference_mode, state
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

__all__ = ["Rule", "expression", "input_meta", "input_names", "key", "renamed", "rule_of", "spoken"]

LONGEST = 110  # characters of a formula; longer ones explain nothing
ARRAY = re.compile(r"\b[a-z]+\d*\[[\d,]*\]")  # of which only type and shape are known: f64[2,3]
INFIX = {"Add": ("+", 1), "Sub": ("-", 1), "Mul": ("*", 2), "Div": ("/", 2), "Gemm": ("@", 2), "Pow": ("**", 4)}
ATOM = 9
# options by which alone an operator differs from its gradient: they are written
DIRECTIONS = {"CumSum": ("reverse",), "CumProd": ("reverse",), "Shift": ("by",), "Roll": ("shifts",),
              "Rotary": ("inverse",)}


@dataclass
class Rule:
    """`formulas`: the gradient of each input, None where there is none or none is short; `why`: what kept it away.

    `arrives`: what the gradient of each output is called, `grad`, or `h` where an input has that name.
    """

    inputs: list[str]
    outputs: list[str]
    formulas: list[str | None]
    arrives: list[str]
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


def numbered(name: str, n: int) -> list[str]:
    """y of one, y0, y1, ... of several."""
    return [name] if n == 1 else [f"{name}{i}" for i in range(n)]


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
    way = [f"{option}={getattr(node, option)}" for option in DIRECTIONS.get(name, ()) if getattr(node, option, False)]
    return f"{spoken(name)}({', '.join([*(text for text, _ in operands), *way])})", ATOM


def _wrapped(text, binds, least) -> str:
    return text if binds >= least else f"({text})"


def renamed(formula: str, names: dict[str, str]) -> str:
    """A formula with other names for its variables; functions, options and attributes keep theirs."""
    return re.sub(r"(?<![\w.#])[a-z]\w*\b(?![(=\[])", lambda m: names.get(m[0], m[0]), formula)


class _Arrays:
    """A watcher of look.record: which of the named arrays a rule handed to an operator as they are, not as Tensors.

    Zeros beside a condition, or as half of a complex number, are no array to a reader: they are named 0.
    """

    def __init__(self, held, names):
        self.names = {id(t._array): names[id(t)] for t in held}
        self.found: dict[tuple, str] = {}  # (node, input) -> name

    def operator(self, node, note, args, outs) -> None:
        for i, a in enumerate(args):
            if id(a) in self.names:
                self.found[node, i] = self.names[id(a)]
            elif node.name() in ("Where", "Complex") and _is_zero(a):
                self.found[node, i] = "0"

    def gradients(self, note, sent, arrived) -> None:
        pass

    def leaf(self, note, grads) -> None:
        pass


class _TooLong(Exception):
    """A formula that no one would read."""


@inference_mode(False)  # recorded, whatever is set outside
def rule_of(node) -> Rule:
    """The formulas of a node of a graph that is not freed. Runs its rule once; `.grad` and the graph stay as they are.

    Raises: RuntimeError when a backward has freed the node's saved values.
    """
    inputs = input_names(node)
    metas = node.metas if node.metas is not None else ((node.shape, node.dtype),)
    outputs = numbered("out" if "y" in inputs else "y", len(metas))
    arriving = numbered("h" if "grad" in inputs else "grad", len(metas))
    rule = Rule(inputs, outputs, [None] * len(inputs), arriving)
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
        grads.append(named(like.ones(shape, dtype), arriving[i]))
    casts, state.autocast = state.autocast, None
    arrays = _Arrays(held, names)
    record.watch(arrays)
    try:
        with use_kernels(False), record():
            node._tensors = tuple(values)
            out = node.backward(*grads)
    except (RuntimeError, NotImplementedError, TypeError) as e:
        rule.why = f"the rule does not run on Tensors: {e}"
        return rule
    finally:
        record.unwatch(arrays)
        node._tensors, state.autocast = None, casts
    why, long, summed = [], [], []
    for i, t in enumerate(out if isinstance(out, tuple) else (out,)):
        if node.edges[i] is None:
            continue
        if t is None:
            why.append(f"its rule sends {inputs[i]} no gradient")
            continue
        try:
            rule.formulas[i] = _written(t, names, arrays.found)[0]
        except _TooLong:
            long.append(inputs[i])
        if tuple(t.shape) != input_meta(node, i)[0]:
            summed.append(inputs[i])
    if long:
        why.append(f"longer than a line for {', '.join(long)}: read the rule's source")
    if summed:
        why.append(f"what goes to {', '.join(summed)} is then summed to its shape")
    made = sorted({m for f in rule.formulas if f for m in ARRAY.findall(f)})
    if made:
        why.append(f"{', '.join(made)}: made by the rule without a formula, read its source")
    rule.why = "; ".join(why)
    return rule


def input_meta(node, i) -> tuple:
    """(shape, dtype) of an input that needs a gradient."""
    source, k = endpoint(node.edges[i])
    return (source.shape, source.dtype) if source.metas is None else source.metas[k]


def _is_zero(a) -> bool:
    """Whether an array, or a Tensor outside the graph, is 0 everywhere."""
    if isinstance(a, Tensor):
        if a._req:
            return False
        a = a._array
    return hasattr(a, "dtype") and not bool(a.any())


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
        return "0" if _is_zero(value) else shape_of(value.dtype.name, value.shape), ATOM
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
