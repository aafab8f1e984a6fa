"""Floor 2: the operators, one file per family. An operator applied to raw arrays returns a raw array."""
from .registry import PUBLIC  # noqa: F401  (the families below fill it)
from . import foundation, arithmetic, comparison, pointwise, trigonometric  # noqa: E402,F401
from . import data, creation, shape, parts, indexing, joining, rearrange, padding, scatter, assignment  # noqa: E402,F401
from . import scatter_reduce, fills, sampling, conversion, sorting, printing  # noqa: E402,F401
from . import matmul, linear_algebra, einsum, embedding, dropout, attention, convolution, pooling  # noqa: E402,F401
from . import reduction, scan, statistics, activation, gelu, softmax, normalization, loss, classification  # noqa: E402,F401
from . import channel_normalization, residual_normalization  # noqa: E402,F401
from . import bias_activation, gated, rotary  # noqa: E402,F401

globals().update(PUBLIC)  # functions over the modules of the same name: ops.softmax is the function (keep this last)
