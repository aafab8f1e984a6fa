"""Floor 2: the operators, one file per family. An operator applied to raw arrays returns a raw array."""
from .registry import PUBLIC  # noqa: F401  (the families below fill it)
from . import foundation, arithmetic, comparison, pointwise  # noqa: E402,F401
from . import creation, shape, parts, indexing  # noqa: E402,F401
from . import matmul, einsum  # noqa: E402,F401
from . import reduction, scan, statistics  # noqa: E402,F401
