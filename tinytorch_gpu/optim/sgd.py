"""Stochastic gradient descent, as torch.optim.SGD."""
from __future__ import annotations

from ..backend import kernel_multi_tensor as multi
from .blocks import scalars
from .flat import FlatOptimizer
from .options import check_implementation, check_nonnegative

__all__ = ["SGD"]


def _update(xp, p, g, state, t, s, keep, share, lr, momentum, decay, nesterov, maximize):
    """p, g and the scratch arrays t, s are flat (n,); `state` is (momentum buffer,) or ().

    `keep` and `share` are what the buffer keeps of itself and takes of the gradient (None: all of it). The gradient is
    never negated for `maximize`: decay and step take the opposite sign instead.
    """
    if decay is not None:
        xp.multiply(p, decay, out=s)
        g = xp.add(s, g, out=s)
    step = xp.add if maximize else xp.subtract
    if keep is None:
        xp.multiply(g, lr, out=t)
        step(p, t, out=p)
        return
    buffer, = state
    # the buffer is PyTorch's: of the negated gradient under maximize
    join = xp.subtract if maximize else xp.add
    xp.multiply(buffer, keep, out=buffer)
    join(buffer, g if share is None else xp.multiply(g, share, out=t), out=buffer)
    if nesterov:
        xp.multiply(buffer, momentum, out=t)
        t = join(t, g, out=t)
        xp.multiply(t, lr, out=t)
    else:
        xp.multiply(buffer, lr, out=t)
    xp.subtract(p, t, out=p)


class SGD(FlatOptimizer):
    """Gradient descent with momentum (Nesterov's optional) and L2 weight decay. As torch.optim.SGD.

    State per parameter: `momentum_buffer`, if there is momentum. Half-precision parameters are updated in float32 and
    keep a float32 buffer; `master_weights` (not PyTorch's) also keeps their float32 originals, as in Adam.
    `foreach` and `fused` choose between PyTorch's implementations; the one here serves a whole group at once for any
    of their values, by one kernel launch on a GPU.
    Raises: ValueError for negative options, or nesterov without momentum or with dampening.
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, maximize=False,
                 foreach=None, differentiable=False, fused=None, master_weights=False):
        check_nonnegative(lr, "learning rate")
        check_nonnegative(momentum, "momentum value")
        check_nonnegative(weight_decay, "weight_decay value")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"[SGD] Nesterov momentum requires a momentum and zero dampening, got {momentum} and "
                             f"{dampening}")
        check_implementation("SGD", foreach=foreach, fused=fused, differentiable=differentiable)
        super().__init__(params, dict(
            lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        ), master_weights=master_weights)

    def _names(self, group):
        return ("momentum_buffer",) if group["momentum"] else ()

    def _run_kernel(self, lists, group, scale, found):
        momentum = float(group["momentum"])
        if momentum:
            multi.advance(lists.steps, found)
        lists.run(lambda grads: multi.sgd(
            lists.tables, grads, lists.steps if momentum else None, float(group["lr"]), momentum,
            float(group["dampening"]), float(group["weight_decay"]), bool(group["nesterov"]), "master" in lists.names,
            scale, found, bool(group["maximize"])), scale)

    def _run_formula(self, blocks, group, scale, found):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        decay = -float(group["weight_decay"]) if group["maximize"] else float(group["weight_decay"])
        lr, momentum_, decay_ = scalars(blocks.scratch, float(group["lr"]), momentum, decay)
        numbers = lr, momentum_, decay_ if decay else None, group["nesterov"], group["maximize"]
        keep = share = None
        if momentum:
            first = blocks.advance(found) == 1  # the buffer becomes the gradient
            keep = blocks.xp.where(first, 0.0, momentum)
            share = blocks.xp.where(first, 1.0, 1 - dampening) if dampening else None
        blocks.run(_update, (keep, share), numbers, scale, found)
