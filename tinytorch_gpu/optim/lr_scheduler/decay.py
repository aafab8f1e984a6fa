"""Schedules that multiply the rate: LambdaLR, StepLR, MultiStepLR, ConstantLR, LinearLR, ExponentialLR.

`get_lr` derives a rate from the one before it, as PyTorch does, so that a rate assigned by hand in between stays;
`_get_closed_form_lr` gives the same schedule from `initial_lr`.
"""
from __future__ import annotations

import types
from bisect import bisect_right
from collections import Counter

from .base import LRScheduler

__all__ = ["LambdaLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR"]


class LambdaLR(LRScheduler):
    """initial_lr * lr_lambda(step); one function, or one per group. As torch.optim.lr_scheduler.LambdaLR.

    Raises: ValueError when the number of functions is not that of the groups.
    """

    def __init__(self, optimizer, lr_lambda, last_epoch: int = -1):
        groups = len(optimizer.param_groups)
        if isinstance(lr_lambda, (list, tuple)):
            if len(lr_lambda) != groups:
                raise ValueError(f"[LambdaLR] Expected {groups} lr_lambdas, but got {len(lr_lambda)}")
            self.lr_lambdas = list(lr_lambda)
        else:
            self.lr_lambdas = [lr_lambda] * groups
        super().__init__(optimizer, last_epoch)

    def state_dict(self):
        """All attributes but the optimizer; of the functions only the state of callable objects."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "lr_lambdas")}
        state["lr_lambdas"] = [
            None if isinstance(fn, types.FunctionType) else fn.__dict__.copy() for fn in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict):
        """Take what `state_dict` returned; functions stay those of this scheduler."""
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for fn, loaded in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if loaded is not None:
                fn.__dict__.update(loaded)

    def get_lr(self):
        """initial_lr * lr_lambda(last_epoch)."""
        self._check_caller()
        return [lr * fn(self.last_epoch) for fn, lr in zip(self.lr_lambdas, self.base_lrs, strict=True)]


class StepLR(LRScheduler):
    """Multiplied by gamma every `step_size` steps. As torch.optim.lr_scheduler.StepLR."""

    def __init__(self, optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The rate, times gamma at multiples of step_size."""
        self._check_caller()
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._current()
        return [lr * self.gamma for lr in self._current()]

    def _get_closed_form_lr(self):
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    """Multiplied by gamma at each of the given steps. As torch.optim.lr_scheduler.MultiStepLR."""

    def __init__(self, optimizer, milestones, gamma: float = 0.1, last_epoch: int = -1):
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The rate, times gamma for each milestone at this step."""
        self._check_caller()
        times = self.milestones.get(self.last_epoch, 0)
        return [lr * self.gamma**times for lr in self._current()] if times else self._current()

    def _get_closed_form_lr(self):
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [lr * self.gamma**passed for lr in self.base_lrs]


class ConstantLR(LRScheduler):
    """Multiplied by `factor` until step `total_iters`. As torch.optim.lr_scheduler.ConstantLR.

    Raises: ValueError unless 0 <= factor <= 1.
    """

    def __init__(self, optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if not 0 <= factor <= 1:
            raise ValueError("[ConstantLR] Constant multiplicative factor expected to be between 0 and 1., got "
                             f"{factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The rate, times factor at the start and divided by it at total_iters."""
        self._check_caller()
        if self.last_epoch == 0:
            return [lr * self.factor for lr in self._current()]
        if self.last_epoch == self.total_iters:
            return [lr * (1.0 / self.factor) for lr in self._current()]
        return self._current()

    def _get_closed_form_lr(self):
        factor = self.factor if self.last_epoch < self.total_iters else 1.0
        return [lr * factor for lr in self.base_lrs]


class LinearLR(LRScheduler):
    """A factor that goes linearly from start_factor to end_factor in total_iters steps.

    As torch.optim.lr_scheduler.LinearLR. Raises: ValueError for factors out of (0, 1] and [0, 1].
    """

    def __init__(self, optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5,
                 last_epoch: int = -1):
        if not 0 < start_factor <= 1:
            raise ValueError("[LinearLR] Starting multiplicative factor expected to be greater than 0 and less or "
                             f"equal to 1., got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError("[LinearLR] Ending multiplicative factor expected to be between 0 and 1., got "
                             f"{end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The rate, times the quotient of this step's factor and the last one's."""
        self._check_caller()
        if self.last_epoch == 0:
            return [lr * self.start_factor for lr in self._current()]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._current()
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return [lr * (1.0 + rise / before) for lr in self._current()]

    def _get_closed_form_lr(self):
        done = min(self.total_iters, self.last_epoch) / self.total_iters
        return [lr * (self.start_factor + (self.end_factor - self.start_factor) * done) for lr in self.base_lrs]


class ExponentialLR(LRScheduler):
    """Multiplied by gamma every step. As torch.optim.lr_scheduler.ExponentialLR."""

    def __init__(self, optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The rate, times gamma."""
        self._check_caller()
        return self._current() if self._is_initial else [lr * self.gamma for lr in self._current()]

    def _get_closed_form_lr(self):
        return [lr * self.gamma**self.last_epoch for lr in self.base_lrs]
