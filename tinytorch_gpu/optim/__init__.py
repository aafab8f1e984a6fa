"""Optimizers, as torch.optim."""
from . import lr_scheduler
from .adam import Adam, AdamW
from .optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from .sgd import SGD

__all__ = [
    "Optimizer", "SGD", "Adam", "AdamW", "lr_scheduler",
    "register_optimizer_step_pre_hook", "register_optimizer_step_post_hook",
]
