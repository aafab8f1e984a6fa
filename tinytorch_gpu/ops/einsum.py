"""einsum: two operands at a time, each pair as one batched matrix product."""
from __future__ import annotations

import math
import string

from .. import ops
from ..autograd.operator import array_of
from .registry import public


def _parse(equation, shapes):
    """(operand labels, output labels) with every ellipsis spelled out in labels of its own."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise RuntimeError(f"[einsum] the equation {equation!r} has {len(terms)} operands, got {len(shapes)}")
    widest, out_terms = 0, []
    for term, shape in zip(terms, shapes):
        named = term.replace("...", "")
        if any(c not in string.ascii_letters for c in named) or term.count("...") > 1:
            raise RuntimeError(f"[einsum] subscripts must be letters and one ellipsis, got {term!r} in {equation!r}")
        rest = len(shape) - len(named)
        if rest < 0 or (rest and "..." not in term):
            raise RuntimeError(f"[einsum] {term!r} does not fit an operand of shape {list(shape)}")
        widest = max(widest, rest if "..." in term else 0)
    hidden = [chr(0x3B1 + i) for i in range(widest)]  # Greek letters stand for the ellipsis
    for term, shape in zip(terms, shapes):
        n = len(shape) - len(term.replace("...", ""))
        out_terms.append(list(term.replace("...", "".join(hidden[widest - n:]) if "..." in term else "")))
    if arrow:
        output = list(right.replace("...", "".join(hidden)))
        known = {c for t in out_terms for c in t}
        if len(set(output)) != len(output) or not set(output) <= known:
            raise RuntimeError(f"[einsum] the output {right!r} has a subscript twice or one that no operand has")
    else:
        counts: dict[str, int] = {}
        for t in out_terms:
            for c in t:
                counts[c] = counts.get(c, 0) + 1
        output = hidden + sorted(c for c, n in counts.items() if n == 1 and c not in hidden)
    return out_terms, output


def _sizes(terms, shapes):
    sizes: dict[str, int] = {}
    for t, shape in zip(terms, shapes):
        for c, n in zip(t, shape):
            if sizes.setdefault(c, n) != n:
                if sizes[c] != 1 and n != 1:
                    raise RuntimeError(f"[einsum] the subscript {c!r} has sizes {sizes[c]} and {n}")
                sizes[c] = max(sizes[c], n)
    return sizes


def _single(x, labels, keep):
    """Diagonals of repeated labels, then sums over labels that nobody else has."""
    labels = list(labels)
    while len(set(labels)) != len(labels):
        c = next(c for c in labels if labels.count(c) > 1)
        i = labels.index(c)
        j = labels.index(c, i + 1)
        x = ops.diagonal(x, 0, i, j)
        labels = [d for k, d in enumerate(labels) if k not in (i, j)] + [c]
    drop = [i for i, c in enumerate(labels) if c not in keep]
    if drop:
        x = ops.sum(x, tuple(drop))
        labels = [c for c in labels if c in keep]
    return x, labels


def _pair(x, lx, y, ly, keep, sizes):
    """One contraction as a batched product: batch, own and summed labels, each group folded into one dimension."""
    x, lx = _single(x, lx, keep | set(ly))
    y, ly = _single(y, ly, keep | set(lx))
    both = [c for c in lx if c in ly]
    summed = [c for c in both if c not in keep]
    # a label of size 1 in one operand only is broadcast there: it cannot be summed by the product
    for c in list(summed):
        nx, ny = array_of(x).shape[lx.index(c)], array_of(y).shape[ly.index(c)]
        if nx != ny:
            x, y = _widen(x, lx, c, sizes), _widen(y, ly, c, sizes)
    batch = [c for c in both if c in keep]
    for c in batch:
        x, y = _widen(x, lx, c, sizes), _widen(y, ly, c, sizes)
    own_x, own_y = [c for c in lx if c not in both], [c for c in ly if c not in both]

    def fold(t, labels, groups):
        shape = array_of(t).shape
        size = {c: shape[labels.index(c)] for c in labels}
        t = ops.permute(t, tuple(labels.index(c) for g in groups for c in g)) if labels else t
        return ops.reshape(t, tuple(size[c] for c in groups[0]) + tuple(math.prod(size[c] for c in g)
                                                                       for g in groups[1:])), size

    left, size_x = fold(x, lx, [batch, own_x, summed])
    right, size_y = fold(y, ly, [batch, summed, own_y])
    out = ops.gemm(left, right)
    shape = tuple(size_x[c] for c in batch) + tuple(size_x[c] for c in own_x) + tuple(size_y[c] for c in own_y)
    return ops.reshape(out, shape), batch + own_x + own_y


def _widen(t, labels, c, sizes):
    shape = list(array_of(t).shape)
    if shape[labels.index(c)] == sizes[c]:
        return t
    shape[labels.index(c)] = sizes[c]
    return ops.expand(t, tuple(shape))


@public(autocast="lower")
def einsum(equation, *operands):
    """The sum of products that the equation names, with ellipsis and repeated subscripts. As torch.einsum.

    Operands are contracted from left to right, each pair as one batched matrix product.
    Raises: RuntimeError for an equation that does not fit the operands.
    """
    if not isinstance(equation, str):
        raise TypeError(f"[einsum] expected the equation first, a string, got {type(equation).__name__}")
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not operands:
        raise ValueError("[einsum] at least one operand is needed")
    shapes = [array_of(o).shape for o in operands]
    terms, output = _parse(equation, shapes)
    sizes = _sizes(terms, shapes)
    x, labels = operands[0], terms[0]
    for i in range(1, len(operands)):
        later = set(output).union(*terms[i + 1:]) if i + 1 < len(terms) else set(output)
        x, labels = _pair(x, labels, operands[i], terms[i], later, sizes)
    x, labels = _single(x, labels, set(output))
    if labels != output:
        x = ops.permute(x, tuple(labels.index(c) for c in output))
    return x
