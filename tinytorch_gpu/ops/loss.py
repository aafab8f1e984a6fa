"""Losses of an output against a target of the same shape: squared, absolute, Huber, binary cross-entropy, KL."""
from __future__ import annotations

import warnings

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from ..backend.device import backend_of
from .axes import real_only
from .registry import public


def reduction_of(name, reduction, size_average=None, reduce=None) -> str:
    """"none", "mean" or "sum", also from PyTorch's two old flags. Raises: ValueError for another word."""
    if size_average is not None or reduce is not None:
        mean = size_average is None or size_average
        reduction = "none" if reduce is not None and not reduce else "mean" if mean else "sum"
        warnings.warn(f"[{name}] size_average and reduce are deprecated: use reduction='{reduction}'", stacklevel=3)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"[{name}] {reduction} is not a valid value for reduction: use 'none', 'mean' or 'sum'")
    return reduction


def reduced(loss, reduction):
    """The losses, their mean or their sum."""
    return loss if reduction == "none" else ops.mean(loss) if reduction == "mean" else ops.sum(loss)


class _Distance(Operator):
    """A function of the difference of two tensors, with its mean or sum in the same node."""

    __slots__ = ("scale", "limit")
    opmath = True
    promotion = "common"

    def forward(node, a, b, reduction, limit=None):
        node.limit = limit
        node.save(a, b)
        loss = node.measure(node.xp, node.xp.subtract(a, b))
        node.scale = 1.0
        if reduction == "none":
            return loss
        if reduction == "mean":
            node.scale = 1 / loss.size if loss.size else float("nan")
        return loss.sum() * node.scale

    def backward(node, grad):
        a, b = node.saved
        if node.scale != 1.0:
            grad = ops.mul(grad, node.scale)
        grad = ops.mul(node.slope(ops.sub(a, b)), grad)
        return grad, ops.neg(grad) if node.need(1) else None


class MSELoss(_Distance):
    """(a - b) ** 2."""

    __slots__ = ()
    autocast = "float32"

    def measure(node, xp, d):
        return xp.multiply(d, d)

    def slope(node, d):
        return ops.mul(d, 2)


class L1Loss(_Distance):
    """|a - b|, real also for complex numbers."""

    __slots__ = ()
    autocast = "float32"

    def measure(node, xp, d):
        return xp.absolute(d)

    def slope(node, d):
        return ops.sgn(d)


class SmoothL1Loss(_Distance):
    """d ** 2 / (2 beta) where |d| < beta, |d| - beta / 2 beyond."""

    __slots__ = ()
    autocast = "float32"

    def measure(node, xp, d):
        beta = node.limit
        size = xp.absolute(d)
        return xp.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)

    def slope(node, d):
        return ops.clamp(ops.mul(d, 1 / node.limit), -1.0, 1.0)


class HuberLoss(_Distance):
    """d ** 2 / 2 where |d| <= delta, delta (|d| - delta / 2) beyond."""

    __slots__ = ()
    autocast = "float32"

    def measure(node, xp, d):
        delta = node.limit
        size = xp.absolute(d)
        return xp.where(size <= delta, d * d * 0.5, (size - 0.5 * delta) * delta)

    def slope(node, d):
        return ops.clamp(d, -node.limit, node.limit)


def _distance(cls, name, input, target, reduction, weight=None, limit=None):
    a, b = array_of(input), array_of(target)
    if a.shape != b.shape:
        warnings.warn(
            f"[{name}] Using a target size ({list(b.shape)}) that is different to the input size ({list(a.shape)}). "
            "This will likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    params = {} if limit is None else {"limit": limit}
    if weight is None:
        return cls.apply(input, target, reduction=reduction, **params)
    w = array_of(weight)
    if w.shape != a.shape:
        raise ValueError(f"[{name}] weight must have the input's shape {list(a.shape)}, got {list(w.shape)}")
    loss = ops.mul(cls.apply(input, target, reduction="none", **params), weight)
    if reduction != "mean" or cls is HuberLoss:  # PyTorch's weighted Huber mean divides by the number of elements
        return reduced(loss, reduction)
    return ops.div(ops.sum(loss), ops.sum(weight))


@public(functional=True, autocast="float32")
def mse_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean (or sum, or each) of (input - target) ** 2; `weight` of the input's shape.

    As torch.nn.functional.mse_loss. Raises: ValueError for an unknown reduction or a weight of another shape.
    """
    real_only("mse_loss", array_of(input))
    if array_of(input).dtype.kind in "iub" and array_of(target).dtype.kind in "iub":
        raise NotImplementedError(f"[mse_loss] not implemented for {array_of(input).dtype}: convert with .float()")
    reduction = reduction_of("mse_loss", reduction, size_average, reduce)
    return _distance(MSELoss, "mse_loss", input, target, reduction, weight)


@public(functional=True, autocast="float32")
def l1_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    """The mean (or sum, or each) of |input - target|; `weight` of the input's shape.

    As torch.nn.functional.l1_loss. Raises: ValueError for an unknown reduction or a weight of another shape.
    """
    reduction = reduction_of("l1_loss", reduction, size_average, reduce)
    return _distance(L1Loss, "l1_loss", input, target, reduction, weight)


@public(functional=True, autocast="float32")
def smooth_l1_loss(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """Squared over 2 beta where the distance is below `beta`, else the distance less beta / 2.

    As torch.nn.functional.smooth_l1_loss. Raises: RuntimeError for a negative beta.
    """
    real_only("smooth_l1_loss", array_of(input))
    reduction = reduction_of("smooth_l1_loss", reduction, size_average, reduce)
    if beta < 0:
        raise RuntimeError(f"[smooth_l1_loss] does not support negative values for beta, got {beta}")
    if beta == 0:
        return _distance(L1Loss, "smooth_l1_loss", input, target, reduction)
    return _distance(SmoothL1Loss, "smooth_l1_loss", input, target, reduction, limit=float(beta))


@public(functional=True, autocast="float32")
def huber_loss(input, target, reduction="mean", delta=1.0, weight=None):
    """Half the square where the distance is at most `delta`, linear beyond.

    As torch.nn.functional.huber_loss. Raises: RuntimeError when delta is not positive.
    """
    real_only("huber_loss", array_of(input))
    reduction = reduction_of("huber_loss", reduction)
    if delta <= 0:
        raise RuntimeError(f"[huber_loss] does not support non-positive values for delta, got {delta}")
    return _distance(HuberLoss, "huber_loss", input, target, reduction, weight, limit=float(delta))


class BinaryCrossEntropy(Operator):
    """-(t log(x) + (1 - t) log(1 - x)) with logarithms of at least -100."""

    __slots__ = ()
    opmath = True
    autocast = "float32"

    def forward(node, x, t):
        xp = node.xp
        node.save(x, t)
        with dtypes.quiet():
            yes = xp.maximum(xp.log(x), -100)
            no = xp.maximum(xp.log1p(-x), -100)
        return (t - 1) * no - t * yes

    def backward(node, grad):
        x, t = node.saved
        slope = ops.div(ops.sub(x, t), ops.clamp(ops.mul(x, ops.sub(1, x)), min=1e-12))
        gt = None
        if node.need(1):
            no, yes = [ops.clamp(ops.log(p), min=-100.0) for p in (ops.sub(1, x), x)]
            gt = ops.mul(grad, ops.sub(no, yes))
        return ops.mul(grad, slope), gt


def _same_kind(name, input, target):
    a, b = array_of(input), array_of(target)
    if a.dtype.kind in "biuc":
        raise RuntimeError(f"[{name}] needs floating point input, got {dtypes.of(a).name}")
    if a.dtype != b.dtype:
        raise RuntimeError(f"[{name}] input and target must have one dtype, got {dtypes.of(a).name} and "
                           f"{dtypes.of(b).name}: convert the target")
    if a.shape != b.shape:
        raise ValueError(f"[{name}] Target size ({list(b.shape)}) must be the same as input size ({list(a.shape)})")
    return a


@public(functional=True, autocast="unsafe")
def binary_cross_entropy(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """Cross-entropy of probabilities `input` in [0, 1] against targets in [0, 1], of one shape.

    As torch.nn.functional.binary_cross_entropy. Raises: ValueError for different shapes, RuntimeError for input outside
    [0, 1] (where asking costs no wait for the device).
    """
    reduction = reduction_of("binary_cross_entropy", reduction, size_average, reduce)
    x = _same_kind("binary_cross_entropy", input, target)
    if backend_of(x).type == "cpu" and x.size and not (x.min() >= 0 and x.max() <= 1):
        raise RuntimeError("[binary_cross_entropy] all elements of input should be between 0 and 1: apply sigmoid, or "
                           "use binary_cross_entropy_with_logits")
    loss = BinaryCrossEntropy.apply(input, target)
    return reduced(loss if weight is None else ops.mul(loss, weight), reduction)


class BinaryCrossEntropyWithLogits(Operator):
    """max(x, 0) - x t + log(1 + exp(-|x|))."""

    __slots__ = ()
    opmath = True
    autocast = "float32"

    def forward(node, x, t):
        xp = node.xp
        node.save(x, t)
        loss = xp.absolute(x)
        xp.negative(loss, out=loss)
        xp.log1p(xp.exp(loss), out=loss)
        loss += xp.maximum(x, 0)
        loss -= x * t
        return loss

    def backward(node, grad):
        x, t = node.saved
        gx = ops.mul(grad, ops.sub(ops.sigmoid(x), t)) if node.need(0) else None
        return gx, ops.neg(ops.mul(grad, x)) if node.need(1) else None


@public(functional=True, autocast="float32")
def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """Cross-entropy of sigmoid(input) against targets in [0, 1]; `weight`, `pos_weight` broadcast.

    As torch.nn.functional.binary_cross_entropy_with_logits. Raises: ValueError for different shapes.
    """
    reduction = reduction_of("binary_cross_entropy_with_logits", reduction, size_average, reduce)
    _same_kind("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        loss = BinaryCrossEntropyWithLogits.apply(input, target)
    else:
        factor = ops.add(ops.mul(ops.sub(pos_weight, 1), target), 1)
        loss = ops.sub(ops.mul(ops.sub(1, target), input), ops.mul(factor, ops.logsigmoid(input)))
    return reduced(loss if weight is None else ops.mul(loss, weight), reduction)


@public(functional=True, autocast="float32")
def kl_div(input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    """target * (log(target) - input) with `input` in logarithms; reduction also "batchmean".

    As torch.nn.functional.kl_div.
    """
    batch = reduction == "batchmean"
    reduction = "sum" if batch else reduction_of("kl_div", reduction, size_average, reduce)
    if log_target:
        loss = ops.mul(ops.exp(target), ops.sub(target, input))
    else:
        positive = ops.gt(target, 0)
        safe = ops.where(positive, target, 1)
        loss = ops.sub(ops.where(positive, ops.mul(target, ops.log(safe)), 0), ops.mul(target, input))
    shape = array_of(input).shape
    if batch and shape:
        return ops.div(ops.sum(loss), shape[0])
    return reduced(loss, reduction)
