"""A train step in mixed precision on either side: autocast, GradScaler for float16, clipping, AdamW."""
from __future__ import annotations

import numpy as np


class Trainer:
    """A model with its optimizer; `step(x, y)` queues one step and returns the loss, a tensor on the device.

    float16 runs under autocast with a GradScaler, bfloat16 under autocast, float32 plainly. `compiled`: through
    torch.compile. PyTorch's optimizer is its fused one on a GPU.
    """

    def __init__(self, side, model, dtype, lr, clip=1.0, compiled=False):
        self.side, self.model, self.dtype, self.clip = side, model, dtype, clip
        t = side.t
        self.forward = t.compile(self._loss, dynamic=False) if compiled else self._loss
        best = {"fused": True} if side.device == "cuda" and t.__name__ == "torch" else {}
        self.optimizer = t.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, **best)
        self.scaler = t.amp.GradScaler(side.device) if dtype == "float16" else None

    def _loss(self, x, y):
        logits = self.model(x)
        return self.side.t.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))

    def step(self, x, y):
        self.optimizer.zero_grad()
        with self.side.autocast(self.dtype):
            loss = self.forward(x, y)
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
        self.side.t.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()


def weights(model, rng) -> dict:
    """Initial values of GPT-2's kind for the parameters of a model, as NumPy arrays: N(0, 0.02), norms 1, biases 0."""
    made = {}
    for name, p in model.named_parameters():
        shape = tuple(p.shape)
        if len(shape) > 1:
            made[name] = (rng.standard_normal(shape) * 0.02).astype(np.float32)
        else:
            made[name] = np.full(shape, float("norm" in name and name.endswith("weight")), np.float32)
    return made


def load(side, model, values) -> object:
    """The model on the side's device with these parameters."""
    model.load_state_dict({name: side.t.from_numpy(v) for name, v in values.items()})
    return model.to(side.device)
