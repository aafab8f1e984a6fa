"""`--precision`: what a step computes in."""
from __future__ import annotations

import tinytorch_gpu as tt

from .settings import option

__all__ = ["precision_option", "autocast_for", "scaler_for", "update"]

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


def update(loss, model, optimizer, scaler, clip: float):
    """Backward and one step of the optimizer; returns the gradient's norm before it was clipped, a Tensor.

    The host waits for nothing here: on a GPU all of it is queued.
    """
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = tt.nn.utils.clip_grad_norm_(model.parameters(), clip)
    scaler.step(optimizer)  # does nothing where a gradient is infinite
    scaler.update()
    optimizer.zero_grad()  # here, so that the next forward finds their memory free
    return norm
