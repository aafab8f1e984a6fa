"""Losses over classes: cross_entropy from logits (one fused operator) and nll_loss from log-probabilities."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of, wide
from ..backend import dtypes, errors, kernel_cross_entropy
from ..backend.device import backend_of
from ..tensor import Tensor
from .axes import real_only
from .loss import reduction_of
from .registry import public
from .sums import kept_max, kept_sum


def _at(xp, target, axis):
    """The index of each row's target class in the logits; `target` has the logits' shape without `axis`."""
    grids = [xp.arange(n).reshape((n,) + (1,) * (target.ndim - 1 - i)) for i, n in enumerate(target.shape)]
    return (*grids[:axis], target, *grids[axis:])


def _classwise(weight, axis, ndim):
    return weight.reshape((-1,) + (1,) * (ndim - 1 - axis))


class _Rows:
    """The constants of each row: its target, and how much of it is -log p[target] and how much the sum over classes.

    Made when a formula asks for one of them: kernels take what was `given`.
    """

    __slots__ = ("axis", "target", "kept", "weight", "pick", "rest", "mass", "total", "given", "_ignored", "_like")

    def __init__(self, xp, x, target, weight, ignore, smoothing, ignored=True):
        self.given, self.weight, self._ignored = (target, ignore, smoothing), weight, ignored
        self.axis = 1 if x.ndim > 1 else 0
        self._like = xp, x.shape[self.axis], dtypes.accumulation(x.dtype)

    def __getattr__(self, name):
        if name not in ("target", "kept", "pick", "rest", "mass", "total"):
            raise AttributeError(name)
        self._make()
        return getattr(self, name)

    def _make(self):
        (target, ignore, smoothing), (xp, classes, dtype), weight = self.given, self._like, self.weight
        if weight is None and not self._ignored:  # every row counts as one: numbers instead of arrays
            self.kept, self.target = None, target
            self.pick, self.rest = 1.0 - smoothing, smoothing / classes if smoothing else None
            self.mass, self.total = classes, target.size
            return
        self.kept = target != ignore
        self.target = xp.where(self.kept, target, 0)
        own = self.kept.astype(dtype) if weight is None else weight[self.target] * self.kept
        self.pick = own * (1 - smoothing) if smoothing else own
        self.rest = self.kept * dtype.type(smoothing / classes) if smoothing else None
        self.mass = classes if weight is None else weight.sum()
        self.total = own.sum()

    def softmax_factor(self):
        """What the softmax is multiplied by in the gradient."""
        return self.pick if self.rest is None else self.pick + self.rest * self.mass

    def share(self, xp):
        """One row's part of the mean's gradient: 0 where every row is ignored, though their mean is NaN."""
        if self.kept is None:
            return 1 / max(self.total, 1)
        return xp.where(self.total == 0, 0, 1 / self.total).astype(self.pick.dtype)

    def columns(self, xp, values):
        """A value for each row as a column beside the logits; one for all rows as it is."""
        return xp.expand_dims(values, self.axis) if getattr(values, "ndim", 0) else values


class CrossEntropy(Operator):
    """The mean, sum or each of -log(softmax(x)[target]), weighted and smoothed, from logits.

    Saves the logits, and the logarithm of each row's sum as a number that no derivative goes through.
    """

    __slots__ = ("rows", "scale")
    opmath = widens = True
    autocast = "float32"

    def fused(node, x, target, weight, ignore, smoothing, reduction, ignored):
        found = kernel_cross_entropy.forward(x, target, ignore, smoothing) if weight is None else None
        if found is None:
            return None
        loss, total = found
        node.rows, node.scale = _Rows(node.xp, x, target, None, ignore, smoothing, ignored), 1.0
        node.save(x, total.reshape(-1, 1))
        if reduction == "none":
            return loss.astype(x.dtype, copy=False)
        loss, share = kernel_cross_entropy.total(loss, target, ignore, reduction == "mean", x.dtype)
        if reduction == "mean":
            node.scale = share
        return loss

    def forward(node, x, target, weight, ignore, smoothing, reduction, ignored):
        xp = node.xp
        rows = node.rows = _Rows(xp, x, target, weight, ignore, smoothing, ignored)
        axis = rows.axis
        _report("cross_entropy", x, target, axis, ignore)
        with dtypes.quiet():
            top = kept_max(x, axis)
            shifted = xp.subtract(x, top)
            picked = shifted[_at(xp, rows.target, axis)]
            if smoothing:
                every = (shifted if weight is None else shifted * _classwise(weight, axis, x.ndim)).sum(axis=axis)
            xp.exp(shifted, out=shifted)
            total = xp.log(kept_sum(shifted, axis))
            node.save(x, total + top)
            total = total.squeeze(axis)
            loss = (total - picked) * rows.pick
            if smoothing:
                loss = loss + (total * rows.mass - every) * rows.rest
            if rows.kept is not None:
                loss = xp.where(rows.kept, loss, 0)
            node.scale = 1.0
            if reduction == "none":
                return loss
            if reduction == "mean":
                node.scale = rows.share(xp)
                return loss.sum() / rows.total
            return loss.sum()

    def backward(node, grad):
        x, total = node.saved
        return CrossEntropyBackward.apply(ops.mul(grad, node.scale), x, total=total, rows=node.rows)


class CrossEntropyBackward(Operator):
    """grad * (softmax(x) - one_hot(target)), weighted and smoothed; `total` is log(sum(exp(x))) of each row."""

    __slots__ = ("rows",)
    opmath = True

    def fused(node, grad, x, total, rows):
        node.rows = rows
        node.save(grad, x)
        if rows.weight is not None or x.ndim != 2:
            return None
        return kernel_cross_entropy.backward(wide(grad), x, rows.given[0], total.reshape(-1), *rows.given[1:])

    def forward(node, grad, x, total, rows):
        xp = node.xp
        node.rows = rows
        node.save(grad, x)
        axis = rows.axis
        x = wide(x)  # beside a float32 gradient
        with dtypes.quiet():
            out = xp.subtract(x, total)
            xp.exp(out, out=out)
            xp.multiply(out, rows.columns(xp, grad * rows.softmax_factor()), out=out)
            at = _at(xp, rows.target, axis)
            out[at] = out[at] - grad * rows.pick
            if rows.rest is not None:
                rest = rows.columns(xp, grad * rows.rest)
                xp.subtract(out, rest if rows.weight is None else rest * _classwise(rows.weight, axis, x.ndim), out=out)
        return out

    def backward(node, h):
        grad, x = node.saved
        rows, xp = node.rows, node.xp
        axis, shape = rows.axis, array_of(x).shape
        p = ops.softmax(x, axis)
        hp = ops.mul(h, p)
        mean = ops.sum(hp, axis, True)
        factor = rows.columns(xp, rows.softmax_factor())
        target = xp.zeros(shape, array_of(x).dtype)
        target[_at(xp, rows.target, axis)] = rows.pick
        if rows.rest is not None:
            rest = rows.columns(xp, rows.rest)
            target += rest if rows.weight is None else rest * _classwise(rows.weight, axis, len(shape))
        per_row = ops.sub(ops.mul(mean, factor), ops.sum(ops.mul(h, target), axis, True))
        scale = ops.mul(ops.unsqueeze(grad, axis) if array_of(grad).ndim else grad, factor)
        return ops.squeeze(per_row, axis), ops.mul(ops.sub(hp, ops.mul(p, mean)), scale)


class NLLLoss(Operator):
    """The mean, sum or each of -weight[target] * x[target]; linear in x, which is not saved."""

    __slots__ = ("rows", "scale", "like")
    opmath = True
    autocast = "float32"

    def forward(node, x, target, weight, ignore, reduction):
        xp = node.xp
        rows = node.rows = _Rows(xp, x, target, weight, ignore, 0.0)
        node.like = x.shape
        _report("nll_loss", x, target, rows.axis, ignore)
        loss = xp.where(rows.kept, -x[_at(xp, rows.target, rows.axis)] * rows.pick, 0)
        node.scale = 1.0
        if reduction == "none":
            return loss
        if reduction == "mean":
            with dtypes.quiet():
                node.scale = rows.share(xp)
                return loss.sum() / rows.total
        return loss.sum()

    def backward(node, grad):
        return NLLLossBackward.apply(ops.mul(grad, node.scale), rows=node.rows, shape=node.like)


class NLLLossBackward(Operator):
    """Zeros of `shape` with -grad * weight at each row's target: the adjoint of NLLLoss before its mean."""

    __slots__ = ("rows",)

    def forward(node, grad, rows, shape):
        xp = node.xp
        node.rows = rows
        out = xp.zeros(shape, grad.dtype)
        out[_at(xp, rows.target, rows.axis)] = -grad * rows.pick
        return out

    def backward(node, h):
        rows = node.rows
        coefficient = node.xp.zeros(array_of(h).shape, rows.pick.dtype)
        coefficient[_at(node.xp, rows.target, rows.axis)] = -rows.pick
        return ops.sum(ops.mul(h, coefficient), rows.axis)


def _report(name, x, target, axis, ignore):
    """Leave a class out of range in the error word of a device; on the CPU `_check_classes` has asked."""
    if backend_of(target).type != "cpu":
        errors.check_indices(name, target, 0, x.shape[axis], text=kernel_cross_entropy.OUTSIDE, ignore=ignore)


def _check_classes(name, x, target, weight, ignore):
    """The shapes and indices that class targets must have; whether rows may be ignored."""
    if target.dtype not in (dtypes.int64.np, dtypes.uint8.np):
        raise RuntimeError(f"[{name}] expected scalar type Long for target, got {dtypes.of(target).name}: convert it "
                           "with .long()")
    if x.ndim == 0:
        raise RuntimeError(f"[{name}] input tensor should have 1 or more dimensions: (classes) or (batch, classes)")
    axis = 1 if x.ndim > 1 else 0
    wanted = x.shape[:axis] + x.shape[axis + 1:]
    if target.shape != wanted:
        if x.ndim > 1 and (target.ndim == 0 or target.shape[0] != x.shape[0]):
            raise ValueError(f"[{name}] Expected input batch_size ({x.shape[0]}) to match target batch_size "
                             f"({target.shape[0] if target.ndim else 0}).")
        raise RuntimeError(f"[{name}] size mismatch (got input: {list(x.shape)}, target: {list(target.shape)}): class "
                           f"targets must have shape {list(wanted)}")
    classes = x.shape[axis]
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(f"[{name}] weight tensor should be defined either for all {classes} classes or no classes "
                           f"but got weight tensor of shape: {list(weight.shape)}")
    if backend_of(target).type == "cpu" and target.size:  # where asking costs no wait for the device
        low, high = target.min(), target.max()
        if low < 0 or high >= classes:
            bad = target[((target < 0) | (target >= classes)) & (target != ignore)]
            if bad.size:
                raise IndexError(f"[{name}] Target {bad.flat[0]} is out of bounds.")
        return low < 0 or high >= classes or 0 <= ignore < classes
    return bool(target.size)


def _weight(name, weight, x):
    if weight is None:
        return None
    if isinstance(weight, Tensor) and weight.requires_grad:
        raise NotImplementedError(f"[{name}] the derivative for 'weight' is not implemented: detach() it")
    w = array_of(weight)
    if w.dtype != x.dtype:
        raise RuntimeError(f"[{name}] expected weight of dtype {dtypes.of(x).name}, got {dtypes.of(w).name}")
    return w.astype(dtypes.accumulation(w.dtype))


def _floating(name, x):
    real_only(name, x)
    if x.dtype.kind in "biu":
        raise RuntimeError(f"[{name}] not implemented for {dtypes.of(x).name}: logits must be floating point")


@public(functional=True, autocast="float32")
def cross_entropy(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean",
    label_smoothing=0.0,
):
    """Cross-entropy of logits (batch, classes, d1, ...) or (classes) against class indices or class probabilities.

    Indices (int64) have the input's shape without the classes, probabilities its whole shape; `weight` (classes).
    As torch.nn.functional.cross_entropy. Raises: IndexError for a class out of range (on a device at the next wait
    for it), ValueError or RuntimeError for shapes and dtypes that do not fit.
    """
    name = "cross_entropy"
    reduction = reduction_of(name, reduction, size_average, reduce)
    x, t = array_of(input), array_of(target)
    _floating(name, x)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"[{name}] label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    w = _weight(name, weight, x)
    if x.shape != t.shape:
        ignored = _check_classes(name, x, t, w, ignore_index)
        return CrossEntropy.apply(
            input, target, w, ignore=ignore_index, smoothing=float(label_smoothing), reduction=reduction,
            ignored=ignored,
        )
    if t.dtype.kind in "biu":
        raise RuntimeError(f"[{name}] Expected floating point type for target with class probabilities, got "
                           f"{dtypes.of(t).name}")
    if ignore_index >= 0:
        raise RuntimeError(f"[{name}] ignore_index is not supported for floating point target")
    axis = 1 if x.ndim > 1 else 0
    if label_smoothing:
        target = ops.add(ops.mul(target, 1 - label_smoothing), label_smoothing / x.shape[axis])
    loss = ops.mul(ops.log_softmax(input, axis), target)
    if w is not None:
        loss = ops.mul(loss, _classwise(array_of(weight), axis, x.ndim))
    if reduction == "none":
        return ops.neg(ops.sum(loss, axis))
    total = ops.neg(ops.sum(loss))
    return total if reduction == "sum" else ops.div(total, x.size // max(x.shape[axis], 1))


@public(functional=True, autocast="float32")
def nll_loss(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """-input[target], from log-probabilities (batch, classes, d1, ...) or (classes); `weight` (classes).

    As torch.nn.functional.nll_loss. Raises: IndexError for a class out of range (on a device at the next wait for
    it), ValueError or RuntimeError for shapes and dtypes that do not fit.
    """
    name = "nll_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    x, t = array_of(input), array_of(target)
    _floating(name, x)
    w = _weight(name, weight, x)
    _check_classes(name, x, t, w, ignore_index)
    return NLLLoss.apply(input, target, w, ignore=ignore_index, reduction=reduction)
