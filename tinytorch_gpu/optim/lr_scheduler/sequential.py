"""One schedule after another."""
from __future__ import annotations

from bisect import bisect_right

from .base import LRScheduler
from .plateau import ReduceLROnPlateau

__all__ = ["SequentialLR"]


class SequentialLR(LRScheduler):
    """Each of `schedulers` in turn, changing at the steps `milestones`. As torch.optim.lr_scheduler.SequentialLR.

    Raises: ValueError for no scheduler, another optimizer's, a plateau scheduler, or a wrong number of milestones.
    """

    def __init__(self, optimizer, schedulers, milestones, last_epoch: int = -1):
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"[{name}] expects at least one scheduler, but got no scheduler.")
        for i, each in enumerate(schedulers):
            if not hasattr(each, "optimizer"):
                raise TypeError(f"[{name}] at index {i} should have `optimizer` as its attribute.")
            if isinstance(each, ReduceLROnPlateau):
                raise ValueError(f"[{name}] does not support `ReduceLROnPlateau` scheduler as it requires additional "
                                 f"kwargs to be specified when calling `step`, but got one at index {i}")
            if each.optimizer is not optimizer:
                raise ValueError(f"[{name}] expects all schedulers to belong to the same optimizer, but got scheduler "
                                 f"{type(each).__name__} at index {i} of another one")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError("[SequentialLR] Sequential Schedulers expects number of schedulers provided to be one "
                             "more than the "
                             f"number of milestone points, but got number of schedulers {len(schedulers)} and the "
                             f"number of milestones to be equal to {len(milestones)}")
        self.optimizer = optimizer
        self._schedulers, self._milestones = schedulers, milestones
        self.last_epoch = last_epoch + 1
        # each scheduler took its first step when it was made: take those back, and let the first take its own
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _undo(self)
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self):
        """The next step of the scheduler in turn; a scheduler whose turn begins starts at 0."""
        self.last_epoch += 1
        turn = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[turn]
        if turn > 0 and self._milestones[turn - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self):
        """All attributes but the optimizer; the schedulers' own states inside."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        state["_schedulers"] = [each.state_dict() for each in self._schedulers]
        return state

    def load_state_dict(self, state_dict):
        """Take what `state_dict` returned."""
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for each, loaded in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            each.load_state_dict(loaded)


def _undo(scheduler):
    for each in getattr(scheduler, "_schedulers", ()):
        _undo(each)
    if not hasattr(scheduler, "_schedulers"):
        scheduler.last_epoch -= 1
