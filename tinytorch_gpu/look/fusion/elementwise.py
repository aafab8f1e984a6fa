"""Chains of elementwise operators, alone, into a reduction or around a normalization; which function they are is found
by trying."""
from __future__ import annotations

import functools
import heapq
import inspect
import itertools
import math

import numpy as np

from ...autograd.operator import array_of
from ...backend import dtypes
from ...backend.device import is_array
from ...nn import functional as F
from ...ops.dropout import DropoutAdd
from ...tensor import Tensor
from .search import Applied, Search, elementwise
from .steps import Step, Value

__all__ = ["chains", "groups", "name_of", "replay"]

# what functions of this package are written out with, and what tells one from a sum of products
CURVED = frozenset(("Erf", "Tanh", "Sigmoid", "Exp", "Log", "Log1p", "Maximum", "Clamp", "Where", "Abs", "ReLU", "SiLU",
                    "GELU", "GELUTanh", "LogSigmoid", "Softplus", "Pow", "Mul"))
PARTS = CURVED | {"Add", "Sub", "Div", "Neg", "Reciprocal", "Square", "Minimum"}
LONGEST, SAMPLES = 14, 64  # steps of a part that is tried, and numbers
REDUCTIONS = ("Sum", "Mean", "Amax", "Amin", "Var", "Std", "LogSumExp", "Norm")
NORMALIZATIONS = ("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "AddLayerNorm", "AddRMSNorm", "Softmax",
                  "LogSoftmax")

# what a chain may turn out to be: (text, function of arrays, the operator's name and parameters)
ONE = [
    ("F.gelu(x)", F.gelu, ("GELU", {})),
    ('F.gelu(x, approximate="tanh")', lambda x: F.gelu(x, approximate="tanh"), ("GELUTanh", {})),
    ("F.silu(x)", F.silu, ("SiLU", {})),
    ("F.relu(x)", F.relu, ("ReLU", {})),
    ("F.sigmoid(x)", F.sigmoid, ("Sigmoid", {})),
    ("F.softplus(x)", F.softplus, ("Softplus", {})),
    ("F.logsigmoid(x)", F.logsigmoid, ("LogSigmoid", {})),
]
TWO = [
    ("F.swiglu(a, b)", F.swiglu, ("Gated", {"curve": "silu"})),
    ("F.geglu(a, b)", F.geglu, ("Gated", {"curve": "gelu"})),
    ('F.geglu(a, b, approximate="tanh")', lambda a, b: F.geglu(a, b, approximate="tanh"),
     ("Gated", {"curve": "gelu_tanh"})),
]
BIASED = [(f'F.bias_act(x, bias, "{curve}")', lambda x, b, curve=curve: F.bias_act(x, b, curve),
           ("BiasAct", {"curve": curve})) for curve in ("gelu", "gelu_tanh", "relu", "silu")]
LOSSES = [
    ('F.mse_loss(a, b{})', F.mse_loss, ("MSELoss", {})),
    ('F.l1_loss(a, b{})', F.l1_loss, ("L1Loss", {})),
    ('F.binary_cross_entropy(a, b{})', F.binary_cross_entropy, ("BinaryCrossEntropy", {})),
    ('F.binary_cross_entropy_with_logits(a, b{})', F.binary_cross_entropy_with_logits,
     ("BinaryCrossEntropyWithLogits", {})),
]


def groups(s: Search, steps=None) -> list[list[Step]]:
    """Trees of elementwise steps: every result but the last is read once, by the next, and has its size."""
    found: list[list[Step]] = []
    inside: set[Step] = set()
    for last in reversed(s.steps if steps is None else steps):
        if last in inside or not elementwise(last) or not s.free(last):
            continue
        tree, waiting = {last}, [last]
        while waiting:
            step = waiting.pop()
            for v in step.values:
                before = v.step
                if (before is not None and before not in inside and before not in tree and elementwise(before)
                        and s.only(v) is step and s.free(before) and v.shape == last.out.shape):
                    tree.add(before)
                    waiting.append(before)
        inside |= tree
        found.append(sorted(tree, key=lambda x: x.number))
    return found[::-1]


def chains(s: Search) -> None:
    """Dropout and sum, known functions, losses, and what has no operator yet."""
    for step in s.steps:
        _dropout_add(s, step)
    for tree in groups(s):
        _named(s, tree)
    trees = groups(s)
    tree_of = {step: tree for tree in trees for step in tree}
    for step in s.steps:
        _around(s, step, tree_of)
    for tree in trees:
        _unnamed(s, tree)


def _dropout_add(s, add) -> None:
    if add.name != "Add" or not s.free(add) or not all(isinstance(v, Value) for v in add.inputs):
        return
    for i in (0, 1):
        drop, other = s.made(add.inputs[i], "Dropout"), add.inputs[1 - i]
        if (drop is not None and s.only(drop.out) is add and other.shape == drop.out.shape
                and drop.params.get("mask_shape", drop.out.shape) == drop.out.shape):
            p = drop.params["p"]

            def replace(arrays, drop=drop, other=other, p=p):
                return DropoutAdd.apply(arrays[drop.inputs[0]], arrays[other], p=p,
                                        seed_offset=drop.params["seed_offset"])

            s.add("dropout + residual", [drop, add], [add.out], use=f"F.dropout_add(x, residual, p={p:g})",
                  by=[Applied("DropoutAdd", [drop.inputs[0], other], [add.out])], replace=replace)
            return


def _end(s: Search, tree: list[Step]) -> Step | None:
    """The reduction that alone reads what a tree makes."""
    end = s.only(tree[-1].out, *REDUCTIONS)
    return end if end is not None and end.inputs[0] is tree[-1].out else None


def _named(s: Search, tree: list[Step]) -> None:
    """What of one tree, and of the reduction that reads it, are functions of this package."""
    end = _end(s, tree)
    part, known = _known(s, tree, end)
    if known is None:
        return
    text, order, function, (name, params) = known
    out = part[-1].out
    by = [Applied(name, order, [out], params)]
    if end is not None and name.startswith("Binary"):  # which makes each one's loss
        each = Value(order[0].array)
        by = [Applied(name, order, [each]), Applied(end.name, [each], [out])]
    s.add("reduction with its neighbours" if part[-1] is end else "elementwise chain", part, [out], use=text, by=by,
          replace=lambda arrays: function(*[arrays[v] for v in order]))
    for more in groups(s, [x for x in tree if x not in part]):
        _named(s, more)


def _around(s: Search, norm: Step, tree_of: dict[Step, list[Step]]) -> None:
    """A normalization, the tree that makes its operand, and the one that its result goes through alone, maybe into a
    reduction."""
    if norm.name not in NORMALIZATIONS or not s.free(norm):
        return
    before: list[Step] = []
    if isinstance(norm.inputs[0], Value):
        x, above = _unshaped(s, norm.inputs[0], norm)
        made = x.step if s.only(x) is (above[0] if above else norm) else None
        if made is not None and s.free(made) and made in tree_of:
            before = [*tree_of[made], *above]
    y, below = _reshaped(s, norm.out)
    after = tree_of.get(y.uses[0], []) if y.uses and s.free(y.uses[0]) else []
    if y.kept or not set(y.uses) <= set(after) or after and after[-1].out.shape != y.shape:
        after = []
    if len(norm.outputs) > 1 and any(v.step is not None and v.step.number > norm.number and v not in norm.outputs
                                     for v in s.reads([*below, *after]) if v is not norm.out):
        after = []  # which may wait for what is made of the other result
    if before or after:
        steps = [*before, norm, *([*below, *_reduced(s, after)] if after else [])]
        kind = "softmax and elementwise" if "Softmax" in norm.name else "norm and elementwise"
        notes = (["a channel's statistics come before its first result: what they read is counted neither way"]
                 if norm.name == "BatchNorm" else [])
        s.add(kind, steps, [steps[-1].out, *norm.outputs[1:]], notes=notes)


def _unshaped(s: Search, value: Value, reader: Step) -> tuple[Value, list[Step]]:
    """(what a value is in another shape, the views between, in order)."""
    views: list[Step] = []
    while (step := s.made(value, "Reshape")) is not None and value.access != "copied" and s.only(value) is reader:
        views.insert(0, step)
        value, reader = step.values[0], step
    return value, views


def _reshaped(s: Search, value: Value) -> tuple[Value, list[Step]]:
    """(a value in the shape in which it is read, the views between)."""
    views: list[Step] = []
    while (step := s.only(value, "Reshape")) is not None and step.out.access != "copied":
        views.append(step)
        value = step.out
    return value, views


def _unnamed(s: Search, tree: list[Step]) -> None:
    """What is left of a tree: for a kernel of the user's own."""
    if not s.free(tree[-1]):  # beside a normalization
        return
    steps = _reduced(s, tree)
    if len(steps) > 1:
        reduced = len(steps) > len(tree)
        s.add("reduction with its neighbours" if reduced else "elementwise chain", steps, [steps[-1].out])


def _reduced(s: Search, tree: list[Step]) -> list[Step]:
    """A tree with the reduction that reads it, and what follows that."""
    end = _end(s, tree)
    return tree if end is None else [*tree, end, *_tail(s, end)]


def _tail(s: Search, end: Step) -> list[Step]:
    """Elementwise steps with numbers behind a reduction."""
    found, out = [], end.out
    while (step := s.only(out, "Mul", "Div", "Add", "Sub", "Neg", "Sqrt", "Pow")) is not None and len(step.values) == 1:
        found.append(step)
        out = step.out
    return found


def _known(s: Search, tree, end):
    """(steps, what name_of says) of the largest part that is a function of this package."""
    whole = set(tree)
    if end is not None:
        for part in _parts(whole, tree[-1]):
            found = _loss([*part, end], s.reads(part), end.out, end)
            if found is not None:
                return [*part, end], found
    for root in reversed(tree):
        for part in _parts(whole, root):
            found = name_of(part, s.reads(part), root.out) if len(part) > 1 else None
            if found is not None:
                return part, found
    return [], None


def _parts(tree, root):
    """Parts of a tree that end in `root`: the last steps before it, on all its sides or on one, the most first."""
    sides = list({v.step: None for v in root.values if v.step in tree})
    found = list(_last(tree, root, sides))
    if len(sides) > 1:
        for side in sides:
            found += _last(tree, root, [side])
    return sorted(found, key=len, reverse=True)


def _last(tree, root, sides):
    """Of what these functions are written out with, and no sum of products alone."""
    below = [root] if root.name in PARTS else []
    waiting = [(-side.number, side) for side in sides]
    heapq.heapify(waiting)
    while below and waiting and len(below) < LONGEST:
        step = heapq.heappop(waiting)[1]
        if step.name not in PARTS:
            break
        below.append(step)
        for before in {v.step for v in step.values}:
            if before in tree:
                heapq.heappush(waiting, (-before.number, before))
    for count in range(len(below), 0, -1):
        part = below[count - 1::-1]
        if not CURVED.isdisjoint(x.name for x in part):
            yield part


def name_of(steps, inputs, out):
    """(text, operands in order, function, (operator, parameters)) of what a chain computes, None for no function of
    this package: found by comparing them on random numbers in float64."""
    if any(x.name in ("Dropout", "Cast") for x in steps):
        return None
    candidates = {1: ONE, 2: TWO}.get(len(inputs), [])
    if len(inputs) == 2:
        small = [v for v in inputs if v.shape != out.shape]
        if small:
            fits = len(small) == 1 and out.shape and small[0].shape == out.shape[-1:]
            order = [v for v in inputs if v not in small] + small
            return _first(steps, out, BIASED, [order]) if fits else None
    if not candidates or any(v.shape != out.shape for v in inputs):
        return None
    return _first(steps, out, candidates, itertools.permutations(inputs))


def _loss(steps, inputs, out, end):
    axes = end.axes()
    if (len(inputs) != 2 or inputs[0].shape != inputs[1].shape or end.name not in ("Mean", "Sum") or out.shape
            or axes is None or len(axes) != len(inputs[0].shape)):
        return None
    how = {"Mean": "mean", "Sum": "sum"}[end.name]
    text = "" if how == "mean" else ', reduction="sum"'
    candidates = [(t.format(text), lambda a, b, f=f: f(a, b, reduction=how), (name, {**params, "reduction": how}))
                  for t, f, (name, params) in LOSSES]
    return _first(steps, out, candidates, itertools.permutations(inputs))


def _first(steps, out, candidates, orders):
    """The first candidate that gives what the steps give, for some order of the operands. Blocks repeat: what was
    tried once is not tried again."""
    orders = [list(o) for o in orders]
    inputs = orders[0]
    key = _structure(steps, inputs, candidates)
    if key not in _tried:
        if len(_tried) > 1000:
            _tried.clear()
        found = _try(steps, out, candidates, orders)
        _tried[key] = found and (found[0], [inputs.index(v) for v in found[1]], *found[2:])
    found = _tried[key]
    return found and (found[0], [inputs[i] for i in found[1]], *found[2:])


_tried: dict = {}


def _structure(steps, inputs, candidates) -> tuple:
    """What a trial depends on: the steps, how they hang together, numbers, and sizes as they are cut."""
    known = {v: i for i, v in enumerate(inputs)}
    rows = []
    for n, step in enumerate(steps):
        refs = tuple(("v", known[x]) if isinstance(x, Value) else ("n", repr(x)) for x in step.inputs)
        params = tuple(sorted((k, repr(x)) for k, x in step.params.items() if k not in ("shape_in", "full")))
        rows.append((step.name, refs, params))
        known.update({v: -1 - n for v in step.outputs})
    sizes = tuple((tuple(min(n, 5) for n in v.shape), v.array.dtype) for v in inputs)
    return tuple(rows), sizes, tuple(c[0] for c in candidates)


def _try(steps, out, candidates, orders):
    """Both on numbers between 0 and 1, where losses of probabilities are defined, and on any; `SAMPLES` of each."""
    if any("float" not in v.array.dtype or not v.array.size for v in orders[0]):
        return None
    rng = np.random.default_rng(0)
    shapes = {v: tuple(min(n, 5) for n in v.shape) for v in orders[0]}
    count = max(1, -(-SAMPLES // max(1, min(math.prod(s) for s in shapes.values()))))
    positive, every = [], []
    for trials, draw in ((positive, lambda shape: rng.uniform(0.05, 0.95, shape)),
                         (every, lambda shape: 2 * rng.standard_normal(shape))):
        for _ in range(count):
            arrays = {v: draw(shape) for v, shape in shapes.items()}
            with dtypes.quiet():
                made = replay(steps, arrays, small=True)
            if made is None:
                return None
            trials.append((arrays, made[out]))
    for text, function, op in candidates:
        for order in orders:
            if all(_agrees(function, order, *trial) for trial in
                   (positive if "binary_cross_entropy" in text else [*positive, *every])):
                return text, order, function, op
    return None


def _agrees(function, order, arrays, wanted) -> bool:
    try:
        with dtypes.quiet():
            found = function(*[arrays[v] for v in order])
    except (RuntimeError, ValueError):  # not for such operands
        return False
    # constants are written with few digits; gelu and its tanh form differ by 5e-4
    return np.allclose(array_of(found), wanted, rtol=1e-5, atol=2e-5)


@functools.cache
def accepted(cls) -> frozenset:
    """The names of an operator's parameters."""
    return frozenset(inspect.signature(cls.forward).parameters)


def replay(steps, arrays, small=False):
    """{value: what the steps make of it}, from `arrays` for what they read; gradients go where they went. `small`: of
    cut shapes, None where a parameter stands in the way."""
    arrays = dict(arrays)
    for step in steps:
        args = []
        for i, x in enumerate(step.inputs):
            if isinstance(x, Value):
                if small and x not in arrays:
                    return None
                x = arrays[x]
                if isinstance(x, Tensor) and x.requires_grad and step.needs[i:i + 1] != (True,):
                    x = x.detach()
            args.append(x)
        params = {}
        for key, x in step.params.items():
            if key not in accepted(step.cls):  # of a graph: what a node keeps beside
                continue
            if isinstance(x, Value):
                if small:
                    return None
                x = arrays[x]._array
            elif small and (is_array(x) or isinstance(x, (tuple, list)) and key not in ("axes", "dim")):
                return None
            params[key] = x
        try:
            made = step.cls.apply(*args, **params)
        except (RuntimeError, TypeError, ValueError):
            if small:
                return None
            raise
        made = made if isinstance(made, tuple) else (made,)
        arrays.update(zip(step.outputs, made))
    return arrays
