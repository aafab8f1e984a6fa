"""FlatOptimizer: the step of optimizers whose update is one elementwise rule, over flat state."""
from __future__ import annotations

from ..backend.dtypes import quiet
from .gradients import in_order
from .lists import Lists
from .optimizer import Optimizer
from .slabs import Slabs

__all__ = ["FlatOptimizer"]


class FlatOptimizer(Optimizer):
    """An optimizer that updates all parameters of a group at once, by one kernel launch or by array passes.

    Subclasses say what state there is (`_names`), and give the update twice: `_run_kernel` and `_run_formula`. Both
    work on the same state, so kernels may be switched on and off between steps.

    `amp.GradScaler` may set `grad_scale` and `found_inf`, 0-d tensors: gradients are divided by the one, and nothing
    changes if the other is not 0. On a GPU neither is read by the host.
    """

    _step_supports_amp_scaling = True
    _show_step = False  # whether users see the count of steps

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:  # a step of the user's own need not look at `found_inf`
            cls._step_supports_amp_scaling = cls.__dict__.get("_step_supports_amp_scaling", False)

    def __init__(self, params, defaults, *, master_weights=False):
        if master_weights:  # groups have no such key otherwise: they are PyTorch's
            defaults["master_weights"] = True
        super().__init__(params, defaults)
        self._slabs = Slabs(self._show_step)

    def __setstate__(self, state):
        super().__setstate__(state)
        if self.defaults.get("master_weights"):
            for group in self.param_groups:
                group.setdefault("master_weights", True)
        self._slabs = Slabs(self._show_step)

    def _state_dtype(self, param):
        return Slabs.dtype(param)

    def _names(self, group) -> tuple:
        """Names of the state that the group's options need, beside the count of steps."""
        raise NotImplementedError

    def _has_kernel(self, group) -> bool:
        """Whether the kernel knows the group's options."""
        return True

    def _run_kernel(self, lists, group, scale, found) -> None:
        """One step of the parameters in `lists` by kernels."""
        raise NotImplementedError

    def _run_formula(self, blocks, group, scale, found) -> None:
        """One step of the parameters in `blocks` by array passes."""
        raise NotImplementedError

    def step(self, closure=None):
        """Update all parameters that have gradients; returns the closure's loss, if there is one."""
        loss = self._evaluate(closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p._grad is not None and not self._skipped(p.device)]
            parts = self._slabs.parts(params, self._names(group), self.state, group.get("master_weights", False),
                                      self._has_kernel(group)) if params else ()
            for part in parts:
                where = part.slots[0].param.device
                scale, found = self._given("grad_scale", where), None
                if where.type != "cpu":
                    found = self._given("found_inf", where)
                run = self._run_kernel if isinstance(part, Lists) else self._run_formula
                # the state is where the parameters are: what is in order for them is for it
                touched = [*part.arrays, *(slot.param._grad._array for slot in part.slots)]
                with quiet(), in_order(touched, [a for a in (scale, found) if a is not None]):
                    run(part, group, scale, found)
        return loss

    def _given(self, name, device):
        """`grad_scale` or `found_inf` as an array on a device, None where nobody set it."""
        tensor = getattr(self, name, None)
        return None if tensor is None else tensor.detach().to(device)._array

    def _skipped(self, device) -> bool:
        """Whether a step leaves parameters of a device alone, as far as the host can tell without waiting for one."""
        if device.type != "cpu":
            return False
        found = self._given("found_inf", device)
        return found is not None and bool(found)
