"""Learning-rate schedules, as torch.optim.lr_scheduler."""
from .base import LRScheduler
from .cycle import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from .decay import ConstantLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, StepLR
from .plateau import ReduceLROnPlateau
from .sequential import SequentialLR

__all__ = [
    "LRScheduler", "LambdaLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR",
    "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "SequentialLR", "ReduceLROnPlateau",
]
