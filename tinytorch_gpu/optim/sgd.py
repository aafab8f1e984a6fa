"""Stochastic gradient descent, as torch.optim.SGD."""
from __future__ import annotations

from ..backend.dtypes import quiet
from .flat import FlatState, scalars
from .optimizer import Optimizer
from .options import check_implementation, check_nonnegative

__all__ = ["SGD"]


def _update(xp, p, g, state, t, s, lr, momentum, damping, weight_decay, nesterov, maximize, first):
    """p, g and the scratch arrays t, s are flat (n,); `state` is (momentum buffer,) or ().

    The gradient is never negated for `maximize`: decay and step take the opposite sign instead.
    """
    lr, momentum_, damping, decay = scalars(p, lr, momentum, damping, -weight_decay if maximize else weight_decay)
    if weight_decay:
        xp.multiply(p, decay, out=s)
        g = xp.add(s, g, out=s)
    step = xp.add if maximize else xp.subtract
    if momentum == 0:
        xp.multiply(g, lr, out=t)
        step(p, t, out=p)
        return
    buffer, = state
    # the buffer is PyTorch's: of the negated gradient under maximize
    join = xp.subtract if maximize else xp.add
    if first:
        buffer[...] = 0
        join(buffer, g, out=buffer)
    else:
        xp.multiply(buffer, momentum_, out=buffer)
        if damping != 1:
            g_ = xp.multiply(g, damping, out=t)
        else:
            g_ = g
        join(buffer, g_, out=buffer)
    if nesterov:
        xp.multiply(buffer, momentum_, out=t)
        t = join(t, g, out=t)
        xp.multiply(t, lr, out=t)
    else:
        xp.multiply(buffer, lr, out=t)
    xp.subtract(p, t, out=p)


class SGD(Optimizer):
    """Gradient descent with momentum (Nesterov's optional) and L2 weight decay. As torch.optim.SGD.

    Half-precision parameters are updated in float32 and keep a float32 `momentum_buffer`. `foreach` and `fused`
    choose between PyTorch's implementations; the one here serves a whole group at once for any of their values.
    Raises: ValueError for negative options, or nesterov without momentum or with dampening.
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, maximize=False,
                 foreach=None, differentiable=False, fused=None):
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
        ))
        self._flat = FlatState(show_step=False)

    def __setstate__(self, state):
        super().__setstate__(state)
        self._flat = FlatState(show_step=False)

    def _state_dtype(self, param):
        return FlatState.dtype(param)

    def step(self, closure=None):
        """Update all parameters that have gradients; returns the closure's loss, if there is one."""
        loss = self._evaluate(closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p._grad is not None]
            if not params:
                continue
            momentum = float(group["momentum"])
            names = ("momentum_buffer",) if momentum else ()
            for bucket in self._flat.buckets(params, names, self.state):
                first = bucket.slab.steps[bucket.rows][0] == 0
                with quiet():
                    bucket.run(_update, float(group["lr"]), momentum, 1 - group["dampening"],
                               float(group["weight_decay"]), group["nesterov"], group["maximize"], first)
                bucket.slab.steps[bucket.rows] = 1
        return loss
