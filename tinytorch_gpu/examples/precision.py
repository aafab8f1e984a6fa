"""`--precision`: what a step computes in."""
from __future__ import annotations

import tinytorch_gpu as tt

from .settings import option

__all__ = ["precision_option", "autocast_for", "scaler_for"]

DTYPES = {"fp32": None, "bf16": tt.bfloat16, "fp16": tt.float16}


def precision_option():
    """The setting; weights and the optimizer's state are float32 in all of them."""
    return option("fp32", "fp32, or mixed: bf16, or fp16 with a scaled loss", choices=tuple(DTYPES))


def autocast_for(device, precision: str):
    """The block that a forward runs in."""
    dtype = DTYPES[precision]
    return tt.autocast(device.type, dtype or tt.bfloat16, enabled=dtype is not None)


def scaler_for(device, precision: str):
    """Scales the loss so that float16 gradients do not vanish; does nothing for the others."""
    return tt.amp.GradScaler(device.type, enabled=precision == "fp16")
