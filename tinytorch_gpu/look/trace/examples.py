"""Small calls of the operators that need options or arguments of certain shapes, for the formulas of look.explain."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ... import linalg, ops
from ...autograd.engine import grad as gradients
from ...autograd.node import REGISTRY
from ...autograd.operator import array_of
from ...backend.device import backend_for, get_default_device
from ...nn import functional
from ...ops.convolution import Geometry
from ...ops.pooling import Windows
from ...tensor import Tensor, make

__all__ = ["EXAMPLES", "leaf"]


def leaf(*shape, at=0.2) -> Tensor:
    """Numbers that need a gradient, all different, from `at` to `at` + 0.4."""
    n = int(np.prod(shape))
    return needing(np.linspace(at, at + 0.4, n).reshape(shape))


def needing(values) -> Tensor:
    """Numbers that need a gradient."""
    t = constant(values)
    t._req = True
    return t


def constant(values) -> Tensor:
    """Numbers, whole numbers or truth values without a gradient."""
    return make(backend_for(get_default_device()).from_host(np.array(values)))


def backward(out, *inputs) -> tuple[Tensor, ...]:
    """The gradients of `inputs` with a graph of their own: the operators of the backward are in it."""
    return gradients(out, inputs, leaf(*out.shape, at=0.3), create_graph=True)


def factors() -> tuple[Tensor, Tensor]:
    return leaf(2, 3), leaf(2, 3, at=0.3)


def complex_numbers() -> Tensor:
    return ops.complex(*factors())


def image() -> Tensor:
    return leaf(1, 2, 4, 4)


def norm_of(f, *options) -> Tensor:
    """A normalization of 2 x 4 numbers with weight and bias."""
    return f(leaf(2, 4), *options, leaf(4, at=0.8), leaf(4, at=0.1))


POOL = Windows("pool", (4, 4), 2, 2, 0)
CONV = Geometry((1, 2, 4, 4), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
WINNERS = np.array([[[[0, 1], [2, 3]]] * 2], np.uint8)  # of 2 x 2 windows


def winners():
    return array_of(constant(WINNERS))


def picked() -> dict:
    return {"index": array_of(constant([[0], [2]])), "dim": 1}


def directly(name, *args, **options):
    """An operator whose public function is another's part, or draws random numbers."""
    return REGISTRY[name].apply(*args, **options)


EXAMPLES: dict[str, Callable] = {
    # conversions, numbers, shapes
    "Cast": lambda: ops.cast(leaf(2, 3), np.dtype(np.float32)),
    "SumToSize": lambda: ops.sum_to_size(leaf(2, 3), (1, 3)),
    "Expand": lambda: ops.expand(leaf(1, 3), 2, 3),
    "ViewScatter": lambda: ops.view_scatter(leaf(4, 2), leaf(2, 2, at=0.3), (
        (REGISTRY["Slice"], {"index": (slice(1, 3),)}),)),
    "Transfer": lambda: ops.transfer(leaf(2, 3), get_default_device()),
    "Acosh": lambda: ops.acosh(leaf(2, 3, at=1.2)),
    "Real": lambda: ops.real(complex_numbers()),
    "Imag": lambda: ops.imag(complex_numbers()),
    "Reshape": lambda: ops.reshape(leaf(2, 3), (3, 2)),
    "Transpose": lambda: ops.transpose(leaf(2, 3), 0, 1),
    "Permute": lambda: ops.permute(leaf(2, 3, 2), (2, 0, 1)),
    "ViewAsReal": lambda: ops.view_as_real(complex_numbers()),
    "Cat": lambda: ops.cat(factors(), 1),
    "Stack": lambda: ops.stack(factors(), 1),
    "Split": lambda: ops.split(leaf(2, 5), [2, 3], 1),
    "Unbind": lambda: ops.unbind(leaf(2, 3), 0),
    "Repeat": lambda: ops.tile(leaf(2, 3), (2, 2)),
    "Flip": lambda: ops.flip(leaf(2, 3), 1),
    "Roll": lambda: ops.roll(leaf(2, 3), 1, 1),
    "Tril": lambda: ops.tril(leaf(3, 3)),
    "Triu": lambda: ops.triu(leaf(3, 3)),
    "Diagonal": lambda: ops.diagonal(leaf(3, 3)),
    "DiagonalBackward": lambda: ops.diag_embed(leaf(3)),
    "Unfold": lambda: leaf(6).unfold(0, 3, 2),
    "Pad": lambda: functional.pad(leaf(2, 3), (1, 1)),
    # selection
    "Where": lambda: ops.where(constant([True, False, True]), *factors()),
    "Clamp": lambda: ops.clamp(leaf(2, 3), 0.3, 0.5),
    "NanToNum": lambda: ops.nan_to_num(leaf(2, 3)),
    "Round": lambda: ops.round(leaf(2, 3)),
    "Slice": lambda: leaf(4, 2)[1:3],
    "SliceBackward": lambda: directly("SliceBackward", leaf(2, 2), size=(4, 2), index=(slice(1, 3),)),
    "Index": lambda: leaf(4, 2)[constant([0, 2, 2])],
    "IndexBackward": lambda: directly("IndexBackward", leaf(3, 2), size=(4, 2),
                                      index=(array_of(constant([0, 2, 2])),)),
    "IndexPut": lambda: ops.index_put(leaf(4, 2), (constant([0, 2]),), leaf(2, 2, at=0.3)),
    "IndexAdd": lambda: ops.index_add(leaf(4, 2), 0, constant([0, 2]), leaf(2, 2, at=0.3)),
    "MaskedFill": lambda: ops.masked_fill(leaf(2, 3), constant([True, False, False]), 0.0),
    "MaskedScatter": lambda: ops.masked_scatter(leaf(2, 3), constant([True, False, False]), leaf(2, at=0.3)),
    "Gather": lambda: ops.gather(leaf(2, 3), 1, constant([[0, 2], [1, 1]])),
    "GatherBackward": lambda: directly("GatherBackward", leaf(2, 2), size=(2, 3), dim=1,
                                       index=array_of(constant([[0, 2], [1, 1]]))),
    "Scatter": lambda: leaf(2, 3).scatter(1, constant([[0], [2]]), leaf(2, 1, at=0.3)),
    "ScatterAdd": lambda: ops.scatter_add(leaf(2, 3), 1, constant([[0, 0], [2, 1]]), leaf(2, 2, at=0.3)),
    "ScatterExtreme": lambda: leaf(2, 3).scatter_reduce(1, constant([[0], [2]]), leaf(2, 1, at=0.35), "amax"),
    "ScatterProd": lambda: leaf(2, 3).scatter_reduce(1, constant([[0], [2]]), leaf(2, 1, at=0.3), "prod"),
    "Sort": lambda: ops.sort(leaf(2, 3), 1),
    "Topk": lambda: ops.topk(leaf(2, 3), 2, 1),
    "Kth": lambda: ops.kthvalue(leaf(2, 3), 2, 1),
    "Place": lambda: directly("Place", leaf(2, 1), size=3, **picked()),
    "Pick": lambda: directly("Pick", leaf(2, 3), **picked()),
    # reductions, scans
    "Sum": lambda: ops.sum(leaf(2, 3), 1),
    "Mean": lambda: ops.mean(leaf(2, 3), 1),
    "Amax": lambda: ops.amax(leaf(2, 3), 1),
    "Amin": lambda: ops.amin(leaf(2, 3), 1),
    "Max": lambda: ops.max(leaf(2, 3), 1),
    "Min": lambda: ops.min(leaf(2, 3), 1),
    "Shift": lambda: directly("Shift", leaf(2, 3), dim=1, by=1, fill=0),
    "CumSum": lambda: ops.cumsum(leaf(2, 3), 1),
    "CumProd": lambda: ops.cumprod(leaf(2, 3), 1),
    "Prod": lambda: ops.prod(leaf(2, 3), 1),
    "Var": lambda: ops.var(leaf(2, 3), 1),
    "Std": lambda: ops.std(leaf(2, 3), 1),
    "LogSumExp": lambda: ops.logsumexp(leaf(2, 3), 1),
    "Norm": lambda: ops.norm(leaf(2, 3), 2, 1),
    # products, layers
    "Gemm": lambda: leaf(2, 3) @ leaf(3, 2, at=0.3),
    "AddMm": lambda: ops.addmm(leaf(2, 2, at=0.1), leaf(2, 3), leaf(3, 2, at=0.3)),
    "Linear": lambda: functional.linear(leaf(2, 3), leaf(4, 3, at=0.3), leaf(4, at=0.1)),
    "LinalgCholesky": lambda: linalg.cholesky(needing([[2.0, 1.0], [1.0, 3.0]])),
    "Embedding": lambda: functional.embedding(constant([0, 2, 2]), leaf(4, 2)),
    "EmbeddingBackward": lambda: ops.embedding_backward(leaf(3, 2), array_of(constant([0, 2, 2])), 4, None),
    "Dropout": lambda: ops.dropout_apply(leaf(2, 3), 0.25, (2, 3), (0, 0)),
    "DropoutAdd": lambda: directly("DropoutAdd", *factors(), p=0.25, seed_offset=(0, 0)),
    "Attention": lambda: functional.scaled_dot_product_attention(leaf(1, 2, 3), leaf(1, 4, 3, at=0.3),
                                                                 leaf(1, 4, 2, at=0.1)),
    "Conv": lambda: functional.conv2d(image(), leaf(3, 2, 3, 3, at=0.3), leaf(3, at=0.1), padding=1),
    "ConvInput": lambda: ops.conv_input(leaf(1, 3, 4, 4), leaf(3, 2, 3, 3, at=0.3), CONV),
    "ConvWeight": lambda: ops.conv_weight(image(), leaf(1, 3, 4, 4, at=0.3), CONV),
    "MaxPool": lambda: functional.max_pool2d(image(), 2),
    "PoolPlace": lambda: ops.pool_place(leaf(1, 2, 2, 2), winners(), POOL),
    "PoolPick": lambda: ops.pool_pick(image(), winners(), POOL),
    "WindowSum": lambda: functional.avg_pool2d(image(), 2),
    "WindowSpread": lambda: ops.window_spread(leaf(1, 2, 2, 2), POOL),
    "Rotary": lambda: functional.rotary_embedding(leaf(1, 2, 4), constant(np.cos([[1.0, 0.1], [2.0, 0.2]])),
                                                  constant(np.sin([[1.0, 0.1], [2.0, 0.2]]))),
    # activations, softmax, normalizations
    "ReLUBackward": lambda: backward(ops.relu(x := leaf(2, 3)), x),
    "Softplus": lambda: functional.softplus(leaf(2, 3)),
    "ELU": lambda: functional.elu(leaf(2, 3, at=-0.2)),
    "Hardtanh": lambda: functional.hardtanh(leaf(2, 3)),
    "LeakyReLU": lambda: functional.leaky_relu(leaf(2, 3), 0.1),
    "BiasAct": lambda: functional.bias_act(leaf(2, 3), leaf(3, at=0.1), "gelu"),
    "BiasActBackward": lambda: backward(functional.bias_act(x := leaf(2, 3), leaf(3, at=0.1), "gelu"), x),
    "Gated": lambda: functional.swiglu(*factors()),
    "GatedBackward": lambda: backward(functional.swiglu(x := leaf(2, 3), leaf(2, 3, at=0.3)), x),
    "Softmax": lambda: functional.softmax(leaf(2, 3), 1),
    "SoftmaxBackward": lambda: directly("SoftmaxBackward", *factors(), dim=1),
    "LogSoftmax": lambda: functional.log_softmax(leaf(2, 3), 1),
    "LogSoftmaxBackward": lambda: directly("LogSoftmaxBackward", *factors(), dim=1),
    "LayerNorm": lambda: norm_of(functional.layer_norm, (4,)),
    "RMSNorm": lambda: functional.rms_norm(leaf(2, 4), (4,), leaf(4, at=0.8)),
    "BatchNorm": lambda: functional.batch_norm(leaf(3, 4), None, None, leaf(4, at=0.8), leaf(4, at=0.1), True),
    "GroupNorm": lambda: norm_of(functional.group_norm, 2),
    "NormalizeBackward": lambda: backward(functional.layer_norm(x := leaf(2, 4), (4,), leaf(4, at=0.8)), x),
    "AddLayerNorm": lambda: functional.add_layer_norm(leaf(2, 4), leaf(2, 4, at=0.3), (4,), leaf(4, at=0.8),
                                                      leaf(4, at=0.1)),
    "AddRMSNorm": lambda: functional.add_rms_norm(leaf(2, 4), leaf(2, 4, at=0.3), (4,), leaf(4, at=0.8)),
    # losses
    "MSELoss": lambda: functional.mse_loss(*factors()),
    "L1Loss": lambda: functional.l1_loss(*factors()),
    "SmoothL1Loss": lambda: functional.smooth_l1_loss(*factors()),
    "HuberLoss": lambda: functional.huber_loss(*factors()),
    "CrossEntropy": lambda: functional.cross_entropy(leaf(2, 3), constant([0, 2])),
    "CrossEntropyBackward": lambda: backward(functional.cross_entropy(x := leaf(2, 3), constant([0, 2])), x),
    "NLLLoss": lambda: functional.nll_loss(leaf(2, 3), constant([0, 2])),
    "NLLLossBackward": lambda: backward(functional.nll_loss(x := leaf(2, 3), constant([0, 2])), x),
}
