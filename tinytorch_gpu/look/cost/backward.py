"""What the backward of one operator application runs and keeps, where the forward's shapes tell."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cost import Array, Cost, arrays_of
from .gradients import RULES
from .rules import Unknown
from .several import NORMS, factors_of, row_of, statistics
from .traced import Rule, there

__all__ = ["backward_launches", "kept"]

FREE = ("Reshape", "Transpose", "Permute", "Clone", "ViewAsReal", "ViewAsComplex")  # the gradient, looked at otherwise
COMPLEX = (*FREE, "Add", "Sub", "Neg", "Mul", "Gemm", "Linear", "AddMm", "Conv", "Sum", "Mean")


def backward_launches(name: str, inputs: Sequence, outputs: Sequence, params: Mapping | None = None,
                      needs: Sequence[bool] | None = None, *, host: bool = False) -> list[Cost] | None:
    """What the gradient rule of one application starts one after the other, None where that is not known.

    `inputs`, `outputs`, `params`: as of `cost`; numbers among the inputs count where a rule depends on them (a power).
    `needs`: which inputs want a gradient, all floating ones unless given. `host`: on a CPU, where attention scales its
    gradients by themselves. A gradient of a broadcast operand is summed to its size, in a launch of its own, and cast
    where its dtype is another. Casts of half types to float32 between two rules are not counted.
    """
    given, out = arrays_of(inputs), [a for a in arrays_of(outputs) if a is not None]
    wanted = [a is not None and ("float" in a.dtype or a.complex) and (needs is None or i < len(needs) and needs[i])
              for i, a in enumerate(given)]
    if not any(wanted):
        return []
    if not out or name not in COMPLEX and any(a.complex for a in (*out, *given) if a is not None):
        return None
    rule = RULES.get(name)
    if rule is None and name not in FREE:
        return None
    r = Rule(name, inputs, given, out, params or {}, wanted, host)
    try:
        grads = rule(r) if rule is not None else [Array(out[0].dtype, there(given[0]).shape)]
        for grad, array, want in zip(grads, given, wanted):
            if want and grad is not None and array is not None:
                r.fit(grad, array)
    except Unknown:
        return None
    return r.ran


def kept(name: str, inputs: Sequence, outputs: Sequence, params: Mapping | None = None,
         needs: Sequence[bool] | None = None) -> list[int | Array] | None:
    """What an operator keeps for its backward: i for input i, -1 - j for output j, an Array for one that it makes;
    None for operators that no replacement is made of."""
    if name in ("Gemm", "Linear", "AddMm"):
        a, b = factors_of(name)
        return [i for i, other in ((a, b), (b, a)) if needs is None or needs[other]]
    found = _KEPT.get(name)
    if found is None:
        return None
    given, out = arrays_of(inputs), arrays_of(outputs)
    made: list[int | Array] = [i for i in found if i < 0 or i < len(given) and given[i] is not None]
    if name in NORMS:
        made += statistics(name, there(given[0]), given[1 + name.startswith("Add"):], params or {})
    if name == "CrossEntropy":
        made.append(row_of(there(given[0])))
    return made if out else None


# what the operators keep that are named as replacements: inputs, and outputs as -1 - j
_KEPT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("GELU", "GELUTanh", "SiLU", "Softplus", "LogSigmoid"), (0,)),
    **dict.fromkeys(("ReLU", "Sigmoid", "Softmax"), (-1,)),
    **dict.fromkeys(("Gated", "BiasAct", "MSELoss", "L1Loss", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits",
                     "LayerNorm", "RMSNorm"), (0, 1)),
    "AddLayerNorm": (-2, 2), "AddRMSNorm": (-2, 2), "CrossEntropy": (0,), "Attention": (0, 1, 2, -2),
    "DropoutAdd": (), "Mean": (), "Sum": (),
}
