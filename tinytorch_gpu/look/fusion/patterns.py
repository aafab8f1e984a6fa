"""All patterns over one program, the largest first: a step belongs to one finding."""
from __future__ import annotations

from .attention import attention
from .cross_entropy import cross_entropy
from .elementwise import chains
from .loops import update_loops
from .norm import normalization, residual_norm
from .products import bias_activation, product_chains
from .search import Finding, Search
from .softmax import find_softmax
from .steps import Program

__all__ = ["findings"]


def findings(program: Program) -> list[Finding]:
    """What could be fused, in the order of the program."""
    s = Search(program)
    update_loops(s)
    for pattern in (attention, cross_entropy, normalization, residual_norm):
        for step in program.steps:
            if step not in s.taken:
                pattern(s, step)
    find_softmax(s)
    product_chains(s)
    bias_activation(s)
    chains(s)
    return sorted(s.findings, key=lambda f: f.steps[0].number)
