"""`tinytorch-gpu train digits`: a small convolutional network that reads handwritten digits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

import tinytorch_gpu as tt
from tinytorch_gpu import nn

from .command import guarded
from .precision import autocast_for, precision_option, scaler_for, update
from .run import Run, warmup_cosine
from .settings import UserError, option, parse

F = nn.functional


@dataclass
class Settings:
    """Train a convolutional network on scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

    out: str = option("", "folder of the run; runs/digits-1, runs/digits-2, ... where none is named", later=True)
    resume: bool = option(False, "continue the run in --out, or the last one; ends in the same weights", later=True)
    report: bool = option(False, "note graph, memory, profile, gradients of some steps; write report.html", later=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or sim", later=True)
    seed: int = option(0, "seed of the weights and the order of the images", least=0, most=2**32 - 1)
    precision: str = precision_option()
    channels: int = option(16, "channels of the first convolution; the second has twice as many", gpu=64, least=1)
    dropout: float = option(0.2, "chance of dropping a feature before the last layer", least=0, most=0.99)
    shift: int = option(1, "pixels that a training image is moved by, at most", least=0, most=3)
    batch: int = option(64, "images in a step", gpu=128, least=1)
    steps: int = option(400, "steps of training", least=1)
    lr: float = option(3e-3, "highest learning rate", least=0)
    warmup: int = option(40, "steps of rising learning rate; it then falls along a cosine", least=0)
    weight_decay: float = option(0.05, "AdamW's weight decay, of the matrices only", least=0)
    clip: float = option(1.0, "largest norm of the gradient", least=0)
    log_every: int = option(10, "steps between rows of metrics.csv", least=1)
    validate_every: int = option(100, "steps between looks at the test images", least=1)
    save_every: int = option(100, "steps between checkpoints", least=1, later=True)


class Digits:
    """1,438 images to train on and 359 to test with: every fifth image, so that the split never moves.

    The same people wrote both parts.
    """

    def __init__(self):
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError(
                "[data] the handwritten digits come with scikit-learn, which is not installed: "
                "pip install '.[data]' (or pip install scikit-learn)"
            ) from None
        found = load_digits()
        images = (found.images / 16).astype(np.float32)[:, None]
        labels = found.target.astype(np.int64)
        test = np.arange(len(labels)) % 5 == 4
        self.train, self.train_labels = images[~test], labels[~test]
        self.test, self.test_labels = images[test], labels[test]
        self.fingerprint = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()

    def batch(self, seed: int, step: int, batch: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (batch, 1, 8, 8), each moved by up to `shift` pixels, and labels; of this seed and step alone."""
        random = np.random.Generator(np.random.Philox(key=[seed, step]))
        chosen = random.integers(0, len(self.train), batch)
        moves = random.integers(0, 2 * shift + 1, (2, batch, 1, 1))
        padded = np.pad(self.train[chosen, 0], ((0, 0), (shift, shift), (shift, shift)))
        places = np.arange(8)
        rows, columns = moves[0] + places[:, None], moves[1] + places
        return padded[np.arange(batch)[:, None, None], rows, columns][:, None], self.train_labels[chosen]


class CNN(nn.Module):
    """Images (batch, 1, 8, 8) to logits (batch, 10)."""

    def __init__(self, s: Settings):
        super().__init__()
        c = s.channels
        self.layers = nn.Sequential(
            nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(s.dropout), nn.Linear(2 * c * 2 * 2, 10),
        )  # fmt: skip

    def forward(self, images):
        return self.layers(images)


def test_predictions(model, digits, device) -> np.ndarray:
    """The digit that the model sees in each test image."""
    model.eval()
    with tt.no_grad():
        predicted = model(tt.tensor(digits.test, device=device)).argmax(dim=1).tolist()
    model.train()
    return np.array(predicted)


@guarded
def main(argv) -> int:
    """Trains, or continues with --resume; returns the exit status (130 after Ctrl-C)."""
    run = Run("digits", Settings, parse(Settings, argv, "tinytorch-gpu train digits"), "images",
              loss="cross-entropy, nats", held_out="share of the test images read right")
    s, device = run.settings, run.device
    digits = Digits()
    print(f"learning scikit-learn's handwritten digits: {len(digits.train)} images, {len(digits.test)} to test with")

    tt.manual_seed(s.seed)
    model = CNN(s).to(device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": s.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = tt.optim.AdamW(groups, lr=s.lr)
    scheduler = tt.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, s.warmup, s.steps))
    scaler = scaler_for(device, s.precision)
    run.begin(digits.fingerprint, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {s.batch} images a step, {run.folder}")

    images = 0
    with run:
        for step in run.steps():
            inputs, labels = (tt.tensor(a, device=device) for a in digits.batch(s.seed, step, s.batch, s.shift))
            with autocast_for(device, s.precision):
                loss = F.cross_entropy(model(inputs), labels)
            lr = optimizer.param_groups[0]["lr"]
            norm = update(loss, model, optimizer, scaler, s.clip)
            scheduler.step()
            images += s.batch
            row = {}
            if step % s.validate_every == 0:
                with run.paused():
                    row["held_out"] = np.mean(test_predictions(model, digits, device) == digits.test_labels)
            if row or run.due(s.log_every):
                run.log(images, loss=loss.item(), lr=lr, grad_norm=norm.item(), **row)
                images = 0
            if run.due(s.save_every):
                run.save()
    if run.stopped:
        return run.farewell()

    run.draw("cross-entropy, nats")
    predicted = test_predictions(model, digits, device)
    right = predicted == digits.test_labels
    score = f"{100 * right.mean():.2f}% ({right.sum()} of {len(right)})"
    print(f"test accuracy: {score} after {run.seconds:.0f} s of training")
    wrong = [f"a {digits.test_labels[i]} read as {predicted[i]}" for i in np.flatnonzero(~right)]
    if wrong:
        print(f"mistakes: {', '.join(wrong[:8])}{', ...' if len(wrong) > 8 else ''}")
    return 0
