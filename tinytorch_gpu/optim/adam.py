"""Adam and AdamW, as torch.optim.Adam and torch.optim.AdamW."""
from __future__ import annotations

import math

from ..backend.dtypes import quiet
from .flat import FlatState, scalars
from .optimizer import Optimizer
from .options import check_implementation, check_nonnegative

__all__ = ["Adam", "AdamW"]


def _update(xp, p, g, state, t, s, shrink, decay, beta1, share1, beta2, ratio2, root, eps, amsgrad):
    """All arrays are flat (n,); 13 passes for AdamW, 14 for Adam with weight decay. t and s are scratch.

    `share1` is 1 - beta1, negative for maximize; `ratio2` is (1 - beta2) / share1, so that share1 * g serves both
    moments; `root` and `eps` are folded with the step size: m / (sqrt(v) * root + eps) is the whole change.
    """
    m, v = state[0], state[1]
    if decay is not None:
        xp.multiply(p, decay, out=s)
        g = xp.add(s, g, out=s)
    xp.multiply(g, share1, out=t)
    xp.multiply(m, beta1, out=m)
    xp.add(m, t, out=m)
    xp.multiply(t, g, out=t)
    xp.multiply(t, ratio2, out=t)
    xp.multiply(v, beta2, out=v)
    xp.add(v, t, out=v)
    if amsgrad:
        v = xp.maximum(state[2], v, out=state[2])
    xp.sqrt(v, out=t)
    xp.multiply(t, root, out=t)
    xp.add(t, eps, out=t)
    xp.divide(m, t, out=t)
    if shrink is not None:
        xp.multiply(p, shrink, out=p)
    xp.subtract(p, t, out=p)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2014), AMSGrad optional. As torch.optim.Adam.

    State per parameter: `step` (0-d float32, on the host), `exp_avg`, `exp_avg_sq`, `max_exp_avg_sq`. Half-precision
    parameters are updated in float32 and keep float32 moments (PyTorch keeps half ones, whose squares underflow).
    `foreach` and `fused` choose between PyTorch's implementations; the one here serves a whole group at once for
    any of their values. Raises: ValueError for options out of range.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, foreach=None,
                 maximize=False, capturable=False, differentiable=False, fused=None, decoupled_weight_decay=False):
        check_nonnegative(lr, "learning rate")
        check_nonnegative(eps, "epsilon value")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"[{type(self).__name__}] Invalid beta parameter at index {i}: {beta}, must be in "
                                 "[0, 1)")
        check_nonnegative(weight_decay, "weight_decay value")
        check_implementation(type(self).__name__, foreach=foreach, fused=fused, differentiable=differentiable,
                             capturable=capturable)
        super().__init__(params, dict(
            lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        ))
        self._flat = FlatState(show_step=True)

    def __setstate__(self, state):
        super().__setstate__(state)
        self._flat = FlatState(show_step=True)

    def _state_dtype(self, param):
        return FlatState.dtype(param)

    def step(self, closure=None):
        """Update all parameters that have gradients; returns the closure's loss, if there is one."""
        loss = self._evaluate(closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p._grad is not None]
            if not params:
                continue
            names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")
            for bucket in self._flat.buckets(params, names, self.state):
                bucket.slab.steps[bucket.rows] += 1
                with quiet():
                    bucket.run(_update, *self._numbers(group, bucket), group["amsgrad"])
        return loss

    @staticmethod
    def _numbers(group, bucket):
        """The scalars of one update, in the order of `_update`."""
        count = float(bucket.slab.steps[bucket.rows][0])
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        beta1, beta2 = (float(b) for b in group["betas"])
        sign = -1.0 if group["maximize"] else 1.0
        share1 = sign * (1 - beta1)
        array = bucket.scratch
        if lr == 0:  # no change at all: an infinite denominator (0 * inf would be NaN where v is 0)
            root, eps = 0.0, math.inf
        else:
            size = lr / (1 - beta1**count)
            root = 1 / (math.sqrt(1 - beta2**count) * size)
            eps = group["eps"] / size
        shrink = coupled = None
        if decay and group["decoupled_weight_decay"]:
            shrink, = scalars(array, 1 - lr * decay)
        elif decay:
            coupled, = scalars(array, sign * decay)
        return (shrink, coupled, *scalars(array, beta1, share1, beta2, (1 - beta2) / share1, root, eps))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017). As torch.optim.AdamW."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *,
                 maximize=False, foreach=None, capturable=False, differentiable=False, fused=None):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
                         capturable=capturable, differentiable=differentiable, fused=fused,
                         decoupled_weight_decay=True)

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
