"""Adam and AdamW, as torch.optim.Adam and torch.optim.AdamW."""
from __future__ import annotations

from ..backend import kernel_multi_tensor as multi
from .blocks import scalars
from .flat import FlatOptimizer
from .options import check_implementation, check_nonnegative

__all__ = ["Adam", "AdamW"]


def _update(xp, p, g, state, t, s, root, eps, shrink, decay, beta1, share1, beta2, ratio2, amsgrad):
    """All arrays are flat (n,); 13 passes for AdamW, 14 for Adam with weight decay. t and s are scratch.

    `root` and `eps` are folded with the step size: m / (sqrt(v) * root + eps) is the whole change. `share1` is
    1 - beta1, negative for maximize; `ratio2` is (1 - beta2) / share1, so that share1 * g serves both moments.
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


class Adam(FlatOptimizer):
    """Adam (Kingma and Ba, 2014), AMSGrad optional. As torch.optim.Adam.

    State per parameter: `step` (0-d float32, where the parameter is: on a GPU reading it waits; steps that a GradScaler
    skipped are not counted), `exp_avg`, `exp_avg_sq`, `max_exp_avg_sq`. Half-precision parameters are updated in
    float32 and keep float32 moments (PyTorch keeps half ones, whose squares underflow).

    `master_weights` (not PyTorch's): each half parameter has its float32 original in the state, `master`, and is that
    one rounded. Without, updates below half a unit in the last place of a weight (0.2% in bfloat16) are lost. What is
    written into the parameter between steps is the weight from then on.

    `foreach` and `fused` choose between PyTorch's implementations; the one here serves a whole group at once for any
    of their values, by one kernel launch on a GPU (AMSGrad by array operations). `capturable` needs nothing more there.
    Raises: ValueError for options out of range; RuntimeError for capturable with parameters on the CPU.
    """

    _show_step = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, foreach=None,
                 maximize=False, capturable=False, differentiable=False, fused=None, decoupled_weight_decay=False,
                 master_weights=False):
        check_nonnegative(lr, "learning rate")
        check_nonnegative(eps, "epsilon value")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"[{type(self).__name__}] Invalid beta parameter at index {i}: {beta}, must be in "
                                 "[0, 1)")
        check_nonnegative(weight_decay, "weight_decay value")
        check_implementation(type(self).__name__, foreach=foreach, fused=fused, differentiable=differentiable)
        super().__init__(params, dict(
            lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        ), master_weights=master_weights)

    def _names(self, group):
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _has_kernel(self, group):
        return not group["amsgrad"]

    def _run_kernel(self, lists, group, scale, found):
        betas = tuple(float(b) for b in group["betas"])
        multi.advance(lists.steps, found, lists.corrections, betas)
        lr, eps, decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
        decoupled, maximize = group["decoupled_weight_decay"], bool(group["maximize"])
        lists.run(lambda grads: multi.adam(lists.tables, grads, lists.corrections, lr, betas, eps, decay, decoupled,
                                           scale, found, maximize), scale)

    def _run_formula(self, blocks, group, scale, found):
        if group["capturable"] and blocks.on_host:
            raise RuntimeError(f"[{type(self).__name__}] capturable=True needs parameters on a GPU, got some on the "
                               "CPU")
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        beta1, beta2 = (float(b) for b in group["betas"])
        sign = -1.0 if group["maximize"] else 1.0
        share1 = sign * (1 - beta1)
        xp, steps = blocks.xp, blocks.advance(found)
        if lr == 0:  # no change at all: an infinite denominator (0 * inf would be NaN where v is 0)
            root, eps = xp.zeros_like(steps), xp.full_like(steps, xp.inf)
        else:
            size = lr / (1 - beta1**steps)
            root, eps = 1 / (xp.sqrt(1 - beta2**steps) * size), group["eps"] / size
        shrink = coupled = None
        if decay and group["decoupled_weight_decay"]:
            shrink, = scalars(blocks.scratch, 1 - lr * decay)
        elif decay:
            coupled, = scalars(blocks.scratch, sign * decay)
        numbers = scalars(blocks.scratch, beta1, share1, beta2, (1 - beta2) / share1)
        blocks.run(_update, (root, eps), (shrink, coupled, *numbers, group["amsgrad"]), scale, found)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017). As torch.optim.AdamW."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *,
                 maximize=False, foreach=None, capturable=False, differentiable=False, fused=None,
                 master_weights=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
                         capturable=capturable, differentiable=differentiable, fused=fused,
                         decoupled_weight_decay=True, master_weights=master_weights)

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
