"""Elementwise activations and softmax as modules; the formulas are nn.functional's."""
from __future__ import annotations

from .. import ops
from . import functional as F
from .module import Module

__all__ = [
    "ReLU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax", "ELU", "SELU",
    "ReLU6", "Hardtanh", "LogSigmoid", "Softmin", "GLU",
]


class _Activation(Module):
    """One operator with options. `_options` are its attributes and defaults, in order."""

    _options: dict = {}

    def __init__(self, *args, **kwargs):
        super().__init__()
        names = list(self._options)
        if len(args) > len(names):
            raise TypeError(f"{self._get_name()}.__init__() takes from 1 to {len(names) + 1} positional arguments but "
                            f"{len(args) + 1} were given")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names or name in given:
                raise TypeError(f"{self._get_name()}.__init__() got an unexpected keyword argument '{name}'")
            given[name] = value
        for name, default in self._options.items():
            setattr(self, name, given.get(name, default))

    def extra_repr(self):
        """The options; `inplace` only where it is set."""
        shown = [n for n in self._options if n != "inplace" or self.inplace]
        return ", ".join(f"{n}={getattr(self, n)!r}" for n in shown)


class ReLU(_Activation):
    """max(input, 0). As torch.nn.ReLU."""

    _options = {"inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.relu(input, self.inplace)


class LeakyReLU(_Activation):
    """input where positive, else negative_slope * input. As torch.nn.LeakyReLU."""

    _options = {"negative_slope": 0.01, "inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class ELU(_Activation):
    """input where positive, else alpha * (exp(input) - 1). As torch.nn.ELU."""

    _options = {"alpha": 1.0, "inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.elu(input, self.alpha, self.inplace)


class SELU(_Activation):
    """The self-normalizing ELU. As torch.nn.SELU."""

    _options = {"inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.selu(input, self.inplace)


class ReLU6(_Activation):
    """input limited to [0, 6]. As torch.nn.ReLU6."""

    _options = {"inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.relu6(input, self.inplace)


class Hardtanh(_Activation):
    """input limited to [min_val, max_val]. As torch.nn.Hardtanh."""

    _options = {"min_val": -1.0, "max_val": 1.0, "inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)


class GELU(_Activation):
    """input * Phi(input); `approximate` "none" (erf) or "tanh". As torch.nn.GELU."""

    _options = {"approximate": "none"}

    def forward(self, input):
        """Elementwise."""
        return F.gelu(input, approximate=self.approximate)


class SiLU(_Activation):
    """input * sigmoid(input). As torch.nn.SiLU."""

    _options = {"inplace": False}

    def forward(self, input):
        """Elementwise."""
        return F.silu(input, self.inplace)


class Sigmoid(_Activation):
    """1 / (1 + exp(-input)). As torch.nn.Sigmoid."""

    def forward(self, input):
        """Elementwise."""
        return ops.sigmoid(input)


class LogSigmoid(_Activation):
    """log(sigmoid(input)). As torch.nn.LogSigmoid."""

    def forward(self, input):
        """Elementwise."""
        return F.logsigmoid(input)


class Tanh(_Activation):
    """tanh(input). As torch.nn.Tanh."""

    def forward(self, input):
        """Elementwise."""
        return ops.tanh(input)


class Softplus(_Activation):
    """log(1 + exp(beta * input)) / beta, linear above threshold. As torch.nn.Softplus."""

    _options = {"beta": 1.0, "threshold": 20.0}

    def forward(self, input):
        """Elementwise."""
        return F.softplus(input, self.beta, self.threshold)


class GLU(Module):
    """First half of input along `dim` * sigmoid(second half). As torch.nn.GLU."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input):
        """(..., 2 N, ...) to (..., N, ...)."""
        return F.glu(input, self.dim)

    def extra_repr(self):
        """The dimension that is halved."""
        return f"dim={self.dim}"


class _AlongDim(_Activation):
    _options = {"dim": None}

    def forward(self, input):
        """Sums to 1 over `dim` (log_softmax: its exponential does)."""
        return self._function(input, self.dim)


class Softmax(_AlongDim):
    """exp(input) / its sum over `dim`. As torch.nn.Softmax; `dim` must be given."""

    _function = staticmethod(ops.softmax)  # type: ignore[arg-type]  # the function, not the module


class LogSoftmax(_AlongDim):
    """The logarithm of softmax. As torch.nn.LogSoftmax; `dim` must be given."""

    _function = staticmethod(ops.log_softmax)


class Softmin(_AlongDim):
    """softmax(-input). As torch.nn.Softmin; `dim` must be given."""

    _function = staticmethod(F.softmin)
