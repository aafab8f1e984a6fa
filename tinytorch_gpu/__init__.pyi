"""The package's names. Written by tests/make_stubs.py; a test compares."""
import builtins
from typing import Any

from .backend.dtypes import dtype as dtype
from .tensor import Tensor as Tensor

from . import amp as amp
from . import autograd as autograd
from . import cuda as cuda
from . import io as io
from . import kernel as kernel
from . import linalg as linalg
from . import look as look
from . import nn as nn
from . import optim as optim
from . import random as random
from . import testing as testing
from . import utils as utils
from .kernel import Kernel as Kernel
from .kernel import Operator as Operator
from .kernel import custom_vjp as custom_vjp
from .interop import from_dlpack as from_dlpack
from .io import load as load
from .types import result_type as result_type
from .io import save as save
from .kernel import use_kernels as use_kernels
from .random import Generator as Generator
from .backend.out_of_memory import OutOfMemoryError as OutOfMemoryError
from .backend.dtypes import can_cast as can_cast
from .backend.device import device as device
from .autograd.modes import enable_grad as enable_grad
from .backend.dtypes import finfo as finfo
from .backend.device import default_device as get_default_device
from .backend.dtypes import get_default_dtype as get_default_dtype
from .backend.cublas import get_float32_matmul_precision as get_float32_matmul_precision
from .random import get_rng_state as get_rng_state
from .backend.dtypes import iinfo as iinfo
from .autograd.modes import inference_mode as inference_mode
from .backend.random import initial_seed as initial_seed
from .autograd.modes import is_grad_enabled as is_grad_enabled
from .autograd.modes import is_inference_mode_enabled as is_inference_mode_enabled
from .backend.random import manual_seed as manual_seed
from .autograd.modes import no_grad as no_grad
from .backend.dtypes import promote_types as promote_types
from .backend.random import seed as seed
from .backend.device import set_default_device as set_default_device
from .backend.dtypes import set_default_dtype as set_default_dtype
from .backend.cublas import set_float32_matmul_precision as set_float32_matmul_precision
from .autograd.modes import set_grad_enabled as set_grad_enabled
from .random import set_rng_state as set_rng_state

__version__: builtins.str

def abs(input) -> Tensor:
    """|input|; real for complex input. As torch.abs."""
    ...

def acos(input) -> Tensor:
    """The inverse cosine. Elementwise, any shape; integers give floats. As torch.acos."""
    ...

def acosh(input) -> Tensor:
    """The inverse hyperbolic cosine. Elementwise, any shape; integers give floats. As torch.acosh."""
    ...

def add(input, other, *, alpha=1) -> Tensor:
    """input + alpha * other, broadcast. As torch.add."""
    ...

def addcdiv(input, tensor1, tensor2, *, value=1) -> Tensor:
    """input + value * tensor1 / tensor2. As torch.addcdiv."""
    ...

def addcmul(input, tensor1, tensor2, *, value=1) -> Tensor:
    """input + value * tensor1 * tensor2. As torch.addcmul."""
    ...

def addmm(input, mat1, mat2, *, beta=1, alpha=1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2). As torch.addmm."""
    ...

def addmv(input, mat, vec, *, beta=1, alpha=1) -> Tensor:
    """beta * input + alpha * (mat @ vec). As torch.addmv."""
    ...

def all(input, dim=None, keepdim=False) -> Tensor:
    """Whether no element is 0, over `dim` (int, tuple, None: all). As torch.all."""
    ...

def allclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False) -> builtins.bool:
    """Whether all elements are close (a bool; waits for the device). As torch.allclose."""
    ...

def amax(input, dim=..., keepdim=False) -> Tensor:
    """The largest element over `dim` (int, tuple, (): all); equal ones share the gradient. As torch.amax."""
    ...

def amin(input, dim=..., keepdim=False) -> Tensor:
    """The smallest element over `dim` (int, tuple, (): all); equal ones share the gradient. As torch.amin."""
    ...

def any(input, dim=None, keepdim=False) -> Tensor:
    """Whether an element is not 0, over `dim` (int, tuple, None: all). As torch.any."""
    ...

def arange(start, end=None, step=1, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """start, start + step, ... below `end` (`arange(end)` starts at 0): int64 for integers. As torch.arange."""
    ...

def argmax(input, dim=None, keepdim=False) -> Tensor:
    """The index (int64) of the largest element, in the flattened tensor or along `dim`. As torch.argmax."""
    ...

def argmin(input, dim=None, keepdim=False) -> Tensor:
    """The index (int64) of the smallest element, in the flattened tensor or along `dim`. As torch.argmin."""
    ...

def argsort(input, dim=-1, descending=False, stable=False) -> Tensor:
    """The indices that sort `input` along `dim`; always stable. As torch.argsort."""
    ...

def argwhere(input) -> Tensor:
    """The indices of the elements that are not zero, (n, ndim). As torch.argwhere."""
    ...

def as_tensor(data, dtype=None, device=None) -> Tensor:
    """`data` as a tensor, without a copy where dtype and device allow it. As torch.as_tensor."""
    ...

def asarray(obj, *, dtype=None, device=None, copy=None, requires_grad=False) -> Tensor:
    """`obj` as a tensor; `copy` True always copies, False raises where it must. As torch.asarray."""
    ...

def asin(input) -> Tensor:
    """The inverse sine. Elementwise, any shape; integers give floats. As torch.asin."""
    ...

def asinh(input) -> Tensor:
    """The inverse hyperbolic sine. Elementwise, any shape; integers give floats. As torch.asinh."""
    ...

def atan(input) -> Tensor:
    """The inverse tangent. Elementwise, any shape; integers give floats. As torch.atan."""
    ...

def atan2(input, other) -> Tensor:
    """The angle of the points (other, input), in radians. As torch.atan2."""
    ...

def atanh(input) -> Tensor:
    """The inverse hyperbolic tangent. Elementwise, any shape; integers give floats. As torch.atanh."""
    ...

def atleast_1d(*tensors) -> Any:
    """Views with at least 1 dimensions. As torch.atleast_1d."""
    ...

def atleast_2d(*tensors) -> Any:
    """Views with at least 2 dimensions. As torch.atleast_2d."""
    ...

def atleast_3d(*tensors) -> Any:
    """Views with at least 3 dimensions. As torch.atleast_3d."""
    ...

def baddbmm(input, batch1, batch2, *, beta=1, alpha=1) -> Tensor:
    """beta * input + alpha * (batch1 @ batch2). As torch.baddbmm."""
    ...

def bernoulli(input, p=None, *, generator=None) -> Tensor:
    """1 with the probability in each element of `input` (or `p`), else 0; of its dtype. As torch.bernoulli."""
    ...

bfloat16: dtype

def bincount(input, weights=None, minlength=0) -> Tensor:
    """How often each integer occurs in 1-d `input`, or the sum of its weights, in a fixed order. As torch.bincount."""
    ...

def bitwise_and(input, other) -> Tensor:
    """The bits that both have (integers, booleans). Broadcast. As torch.bitwise_and."""
    ...

def bitwise_left_shift(input, other) -> Tensor:
    """input * 2 ** other (integers). Broadcast. As torch.bitwise_left_shift."""
    ...

def bitwise_not(input) -> Tensor:
    """The inverted bits of integers, the logical not of booleans. As torch.bitwise_not."""
    ...

def bitwise_or(input, other) -> Tensor:
    """The bits that one has (integers, booleans). Broadcast. As torch.bitwise_or."""
    ...

def bitwise_right_shift(input, other) -> Tensor:
    """floor(input / 2 ** other) (integers). Broadcast. As torch.bitwise_right_shift."""
    ...

def bitwise_xor(input, other) -> Tensor:
    """The bits in which they differ (integers, booleans). Broadcast. As torch.bitwise_xor."""
    ...

def bmm(input, mat2) -> Tensor:
    """(B, M, K) @ (B, K, N) -> (B, M, N), without broadcasting. As torch.bmm."""
    ...

bool: dtype

def broadcast_shapes(*shapes) -> tuple[builtins.int, ...]:
    """The shape that tensors of these shapes broadcast to, a tuple. As torch.broadcast_shapes."""
    ...

def broadcast_tensors(*tensors) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape. As torch.broadcast_tensors."""
    ...

def broadcast_to(input, size) -> Tensor:
    """A view repeated to `size`. As torch.broadcast_to."""
    ...

def bucketize(input, boundaries, *, out_int32=False, right=False) -> Tensor:
    """The number of the bucket between sorted boundaries of each value, int64. As torch.bucketize."""
    ...

def cast(input, dtype) -> Tensor:
    """`input` in a numpy dtype; the same object when it has it already."""
    ...

def cat(tensors, dim=0) -> Tensor:
    """Tensors one after the other along `dim`; their other sizes agree. As torch.cat."""
    ...

cdouble: dtype

def ceil(input) -> Tensor:
    """The smallest integer not below, in the input's dtype. Elementwise, any shape; integers give floats. As torch.ceil."""
    ...

cfloat: dtype

def chunk(input, chunks, dim=0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size (the last may be smaller), views. As torch.chunk."""
    ...

def clamp(input, min=None, max=None) -> Tensor:
    """input limited to [min, max] (numbers or tensors; either may be None). As torch.clamp."""
    ...

def clamp_max(input, max) -> Tensor:
    """min(input, max). As torch.clamp_max."""
    ...

def clamp_min(input, min) -> Tensor:
    """max(input, min). As torch.clamp_min."""
    ...

def clone(input) -> Tensor:
    """A copy that stays in the graph. As torch.clone."""
    ...

def column_stack(tensors) -> Tensor:
    """1-d tensors as columns, others joined along the second dimension. As torch.column_stack."""
    ...

def complex(real, imag) -> Tensor:
    """The complex tensor real + i imag; both float32 or both float64. As torch.complex."""
    ...

complex128: dtype

complex64: dtype

def concat(tensors, dim=0) -> Tensor:
    """The same as cat. As torch.concat."""
    ...

def concatenate(tensors, dim=0) -> Tensor:
    """The same as cat. As torch.concatenate."""
    ...

def conj(input) -> Tensor:
    """The complex conjugate; a real input comes back as it is. As torch.conj."""
    ...

def contiguous(input) -> Tensor:
    """`input` in C order: itself if it is already, else a copy. As torch.Tensor.contiguous."""
    ...

def conv(input, weight, geometry, bias=None) -> Tensor:
    """Convolution of a known geometry; internal."""
    ...

def conv_input(output, weight, geometry) -> Tensor:
    """The adjoint of `conv` in its input; internal."""
    ...

def conv_weight(input, output, geometry) -> Tensor:
    """The adjoint of `conv` in its weight; internal."""
    ...

def cos(input) -> Tensor:
    """The cosine. Elementwise, any shape; integers give floats. As torch.cos."""
    ...

def cosh(input) -> Tensor:
    """The hyperbolic cosine. Elementwise, any shape; integers give floats. As torch.cosh."""
    ...

def count_nonzero(input, dim=None) -> Tensor:
    """How many elements are not 0 (int64), over `dim` (int, tuple, None: all). As torch.count_nonzero."""
    ...

def cumprod(input, dim, *, dtype=None) -> Tensor:
    """Running products along `dim`; right gradients at zeros. As torch.cumprod."""
    ...

def cumsum(input, dim, *, dtype=None) -> Tensor:
    """Running sums along `dim`; integers sum in int64. As torch.cumsum. Raises: IndexError for a dim out of range."""
    ...

def det(input) -> Tensor:
    """The determinant of square matrices. As torch.det, torch.linalg.det."""
    ...

def diag(input, diagonal=0) -> Tensor:
    """The diagonal of a matrix, or the matrix with a vector on its diagonal. As torch.diag."""
    ...

def diag_embed(input, offset=0, dim1=-2, dim2=-1) -> Tensor:
    """Matrices over dim1 and dim2 with the last dimension on a diagonal. As torch.diag_embed."""
    ...

def diagonal(input, offset=0, dim1=0, dim2=1) -> Tensor:
    """A diagonal of dim1 and dim2 as the last dimension, a view. As torch.diagonal."""
    ...

def div(input, other, *, rounding_mode=None) -> Tensor:
    """input / other, broadcast; integers give floats unless rounding_mode is "trunc" or "floor". As torch.div."""
    ...

def dot(input, tensor) -> Tensor:
    """The product of two vectors (K), without conjugation. As torch.dot."""
    ...

double: dtype

def dropout_apply(input, p, mask_shape, seed_offset) -> Tensor:
    """Dropout with the mask of (seed, offset); internal: its own gradient."""
    ...

def dstack(tensors) -> Tensor:
    """Joined along the third dimension. As torch.dstack."""
    ...

e: builtins.float

def einsum(equation, *operands) -> Tensor:
    """The sum of products that the equation names, with ellipsis and repeated subscripts. As torch.einsum."""
    ...

def embedding_backward(grad, index, rows, padding, by_count=False) -> Tensor:
    """The adjoint of `embedding_rows`; internal."""
    ...

def embedding_rows(weight, index) -> Tensor:
    """weight[index] for a raw integer array; internal."""
    ...

def empty(*size, dtype=None, device=None, requires_grad=False, **named) -> Tensor:
    """A tensor of shape `size` with whatever lies in memory. As torch.empty."""
    ...

def empty_like(input, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """Uninitialised memory with the shape, dtype and device of `input`. As torch.empty_like."""
    ...

def eq(input, other) -> Tensor:
    """input == other. Broadcast. As torch.eq."""
    ...

def equal(input, other) -> builtins.bool:
    """Whether shapes and all elements are equal (a bool; waits for the device). As torch.equal."""
    ...

def erf(input) -> Tensor:
    """The error function. Elementwise, any shape; integers give floats. As torch.erf."""
    ...

def erfc(input) -> Tensor:
    """1 - erf(input). Elementwise, any shape; integers give floats. As torch.erfc."""
    ...

def erfinv(input) -> Tensor:
    """The inverse error function. Elementwise, any shape; integers give floats. As torch.erfinv."""
    ...

def exp(input) -> Tensor:
    """e ** input. Elementwise, any shape; integers give floats. As torch.exp."""
    ...

def exp2(input) -> Tensor:
    """2 ** input. Elementwise, any shape; integers give floats. As torch.exp2."""
    ...

def expand(input, *size) -> Tensor:
    """A broadcast view of shape `size`; -1 keeps a dimension. As torch.Tensor.expand."""
    ...

def expand_as(input, other) -> Tensor:
    """`input` expanded to the shape of `other`. As torch.Tensor.expand_as."""
    ...

def expm1(input) -> Tensor:
    """e ** input - 1, exact near 0. Elementwise, any shape; integers give floats. As torch.expm1."""
    ...

def eye(n, m=None, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """Ones on the diagonal, (n, m). As torch.eye."""
    ...

def flatten(input, start_dim=0, end_dim=-1) -> Tensor:
    """Dimensions start_dim to end_dim as one. As torch.flatten."""
    ...

def flip(input, *dims) -> Tensor:
    """Reversed along `dims`, a copy. As torch.flip."""
    ...

def fliplr(input) -> Tensor:
    """Reversed along the second dimension. As torch.fliplr."""
    ...

def flipud(input) -> Tensor:
    """Reversed along the first dimension. As torch.flipud."""
    ...

float: dtype

float16: dtype

float32: dtype

float64: dtype

def floor(input) -> Tensor:
    """The largest integer not above, in the input's dtype. Elementwise, any shape; integers give floats. As torch.floor."""
    ...

def floor_divide(input, other) -> Tensor:
    """floor(input / other). As torch.floor_divide; not differentiable."""
    ...

def fmod(input, other) -> Tensor:
    """The remainder with the sign of the dividend. As torch.fmod."""
    ...

def frac(input) -> Tensor:
    """input - trunc(input). As torch.frac."""
    ...

def from_numpy(ndarray) -> Tensor:
    """A CPU tensor that shares the memory of a NumPy array. As torch.from_numpy."""
    ...

def full(size, fill_value, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """`fill_value` everywhere; without dtype it is that of the value. As torch.full."""
    ...

def full_like(input, fill_value, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """`fill_value` in the shape, dtype and device of `input`. As torch.full_like."""
    ...

def gather(input, dim, index) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on; shape of `index`. As torch.gather."""
    ...

def ge(input, other) -> Tensor:
    """input >= other. Broadcast. As torch.ge."""
    ...

def gemm(a, b, trans_a=False, trans_b=False) -> Tensor:
    """op(a) op(b) for ranks >= 2; internal: `matmul` and the rules of products."""
    ...

def getitem(input, index) -> Tensor:
    """input[index] with PyTorch's basic (views) and advanced (copies) indexing."""
    ...

def gt(input, other) -> Tensor:
    """input > other. Broadcast. As torch.gt."""
    ...

half: dtype

def hstack(tensors) -> Tensor:
    """Joined along the second dimension (1-d tensors along the first). As torch.hstack."""
    ...

def imag(input) -> Tensor:
    """The imaginary part, a view. As torch.imag. Raises: RuntimeError for a real input."""
    ...

def index_add(input, dim, index, source, *, alpha=1) -> Tensor:
    """`input` plus alpha * source at rows `index` of `dim`, in a fixed order. As torch.index_add."""
    ...

def index_copy(input, dim, index, source) -> Tensor:
    """A copy of `input` with source at rows `index` of `dim`. As torch.index_copy."""
    ...

def index_fill(input, dim, index, value) -> Tensor:
    """A copy of `input` with a number (or 0-d tensor) in rows `index` of `dim`. As torch.index_fill."""
    ...

def index_put(input, indices, values, accumulate=False) -> Tensor:
    """A copy of `input` with `values` at a tuple of index tensors, written or added. As torch.index_put."""
    ...

def index_select(input, dim, index) -> Tensor:
    """The slices number `index` (1-d) along `dim`, a copy. As torch.index_select. Raises: IndexError out of range."""
    ...

inf: builtins.float

int: dtype

int16: dtype

int32: dtype

int64: dtype

int8: dtype

def inverse(input) -> Tensor:
    """The inverse of square matrices. As torch.inverse, torch.linalg.inv."""
    ...

def is_complex(input) -> builtins.bool:
    """Whether the dtype is complex. As torch.is_complex."""
    ...

def is_floating_point(input) -> builtins.bool:
    """Whether the dtype is floating (not complex). As torch.is_floating_point."""
    ...

def is_tensor(obj) -> builtins.bool:
    """Whether `obj` is a Tensor. As torch.is_tensor."""
    ...

def isclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False) -> Tensor:
    """|input - other| <= atol + rtol * |other|, elementwise. As torch.isclose."""
    ...

def isfinite(input) -> Tensor:
    """True where neither NaN nor infinite. As torch.isfinite."""
    ...

def isinf(input) -> Tensor:
    """True where infinite. As torch.isinf."""
    ...

def isnan(input) -> Tensor:
    """True where NaN. As torch.isnan."""
    ...

def kthvalue(input, k, dim=-1, keepdim=False) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k-th smallest element (from 1) along `dim`. As torch.kthvalue."""
    ...

def le(input, other) -> Tensor:
    """input <= other. Broadcast. As torch.le."""
    ...

def lerp(input, end, weight) -> Tensor:
    """input + weight * (end - input). As torch.lerp."""
    ...

def linalg_cholesky(A, *, upper=False) -> Tensor:
    """The lower L with L L^H = A, or the upper U with U^H U = A: (..., n, n). As torch.linalg.cholesky."""
    ...

def linalg_det(A) -> Tensor:
    """The determinant, (..., n, n) -> (...). As torch.linalg.det; the gradient needs an invertible matrix."""
    ...

def linalg_inv(A) -> Tensor:
    """The inverse of square matrices, (..., n, n) -> (..., n, n). As torch.linalg.inv."""
    ...

def linalg_slogdet(A) -> Tensor:
    """(sign, logabsdet) of the determinant, (..., n, n) -> (...) each. As torch.linalg.slogdet."""
    ...

def linalg_solve(A, B, *, left=True) -> Tensor:
    """X with A X = B (X A = B unless `left`): (..., n, n) and (..., n, k), or vectors (..., n). As torch.linalg.solve."""
    ...

def linspace(start, end, steps, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """`steps` values from `start` to `end`, both included. As torch.linspace."""
    ...

def log(input) -> Tensor:
    """The natural logarithm. Elementwise, any shape; integers give floats. As torch.log."""
    ...

def log10(input) -> Tensor:
    """The logarithm to base 10. Elementwise, any shape; integers give floats. As torch.log10."""
    ...

def log1p(input) -> Tensor:
    """log(1 + input), exact near 0. Elementwise, any shape; integers give floats. As torch.log1p."""
    ...

def log2(input) -> Tensor:
    """The logarithm to base 2. Elementwise, any shape; integers give floats. As torch.log2."""
    ...

def log_softmax(input, dim=None, dtype=None) -> Tensor:
    """log(softmax(input, dim)), without overflow; `dtype` converts first. As torch.nn.functional.log_softmax."""
    ...

def logdet(input) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative. As torch.logdet."""
    ...

def logical_and(input, other) -> Tensor:
    """Both are not 0. Broadcast. As torch.logical_and."""
    ...

def logical_not(input) -> Tensor:
    """True where input is 0. As torch.logical_not."""
    ...

def logical_or(input, other) -> Tensor:
    """One is not 0. Broadcast. As torch.logical_or."""
    ...

def logical_xor(input, other) -> Tensor:
    """Exactly one is not 0. Broadcast. As torch.logical_xor."""
    ...

def logspace(start, end, steps, base=10.0, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """base ** linspace(start, end, steps). As torch.logspace."""
    ...

def logsumexp(input, dim, keepdim=False) -> Tensor:
    """log(sum(exp(input))) over `dim` (int or tuple), without overflow. As torch.logsumexp."""
    ...

long: dtype

def lt(input, other) -> Tensor:
    """input < other. Broadcast. As torch.lt."""
    ...

def masked_fill(input, mask, value) -> Tensor:
    """`input` with a number (or 0-d tensor) where `mask` is True, broadcast. As torch.masked_fill."""
    ...

def masked_scatter(input, mask, source) -> Tensor:
    """`input` with the next element of source wherever `mask` is True. As torch.masked_scatter."""
    ...

def masked_select(input, mask) -> Tensor:
    """The elements where `mask` is True as one dimension, broadcast. As torch.masked_select."""
    ...

def matmul(input, other) -> Tensor:
    """The matrix product: (..., M, K) @ (..., K, N) -> (..., M, N), vectors as in PyTorch. As torch.matmul."""
    ...

def matrix_power(input, n) -> Tensor:
    """The n-th power of square matrices; a negative n inverts. As torch.matrix_power, torch.linalg.matrix_power."""
    ...

def max(input, dim=None, keepdim=False, *, other=None) -> Any:
    """The largest element; with `dim` the pair (values, indices); of two tensors the larger, elementwise."""
    ...

def maximum(input, other) -> Tensor:
    """The elementwise larger, NaN if either is. As torch.maximum. Raises: RuntimeError for complex."""
    ...

def mean(input, dim=None, keepdim=False, *, dtype=None) -> Tensor:
    """The mean over `dim` (int, tuple, None: all); NaN over nothing. As torch.mean."""
    ...

def median(input, dim=None, keepdim=False) -> Any:
    """The lower median of all elements, or (values, indices) along `dim`; NaN if there is one. As torch.median."""
    ...

def meshgrid(*tensors, indexing=None) -> tuple[Tensor, ...]:
    """Coordinate grids of 1-d tensors, expanded views; indexing "ij" (default) or "xy". As torch.meshgrid."""
    ...

def min(input, dim=None, keepdim=False, *, other=None) -> Any:
    """The smallest element; with `dim` the pair (values, indices); of two tensors the smaller, elementwise."""
    ...

def minimum(input, other) -> Tensor:
    """The elementwise smaller, NaN if either is. As torch.minimum. Raises: RuntimeError for complex."""
    ...

def mm(input, mat2) -> Tensor:
    """(M, K) @ (K, N) -> (M, N). As torch.mm."""
    ...

def movedim(input, source, destination) -> Tensor:
    """Dimensions moved to new places, the others in order. As torch.movedim."""
    ...

def msort(input) -> Tensor:
    """The values in ascending order along the first dimension. As torch.msort."""
    ...

def mul(input, other) -> Tensor:
    """input * other, broadcast. As torch.mul."""
    ...

def multinomial(input, num_samples, replacement=False, *, generator=None) -> Tensor:
    """Indices drawn with the weights in each row of `input` (n,) or (rows, n), int64. As torch.multinomial."""
    ...

def mv(input, vec) -> Tensor:
    """(M, K) @ (K) -> (M). As torch.mv."""
    ...

nan: builtins.float

def nan_to_num(input, nan=0.0, posinf=None, neginf=None) -> Tensor:
    """NaN becomes `nan`, infinities the largest numbers of the dtype or `posinf`, `neginf`. As torch.nan_to_num."""
    ...

def nansum(input, dim=None, keepdim=False, *, dtype=None) -> Tensor:
    """The sum of what is not NaN. As torch.nansum."""
    ...

def narrow(input, dim, start, length) -> Tensor:
    """`length` elements from `start` along `dim`, a view. As torch.narrow."""
    ...

def ne(input, other) -> Tensor:
    """input != other. Broadcast. As torch.ne."""
    ...

def neg(input) -> Tensor:
    """-input. As torch.neg. Raises: RuntimeError for booleans."""
    ...

def nonzero(input, *, as_tuple=False) -> Any:
    """The indices of the elements that are not zero, (n, ndim), or one tensor per dimension. As torch.nonzero."""
    ...

def norm(input, p='fro', dim=None, keepdim=False, dtype=None) -> Tensor:
    """The vector norm of order `p` over `dim`, elementwise also for matrices ("fro" is 2). As torch.norm."""
    ...

def normal(mean, std=1.0, size=None, *, generator=None, dtype=None, device=None) -> Tensor:
    """Normal random numbers; mean and std are numbers (with `size`) or tensors that broadcast. As torch.normal."""
    ...

def numel(input) -> builtins.int:
    """The number of elements. As torch.numel."""
    ...

def ones(*size, dtype=None, device=None, requires_grad=False, **named) -> Tensor:
    """Ones of shape `size`. As torch.ones."""
    ...

def ones_like(input, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """Ones with the shape, dtype and device of `input`. As torch.ones_like."""
    ...

def outer(input, vec2) -> Tensor:
    """(M) and (N) -> (M, N). As torch.outer."""
    ...

def permute(input, *dims) -> Tensor:
    """The dimensions in the order `dims`, a view. As torch.permute."""
    ...

pi: builtins.float

def pool_pick(input, winner, windows) -> Tensor:
    """The values that max pooling chose; internal."""
    ...

def pool_place(input, winner, windows) -> Tensor:
    """The adjoint of `pool_pick`; internal."""
    ...

def positive(input) -> Tensor:
    """input itself. As torch.positive."""
    ...

def pow(input, exponent) -> Tensor:
    """input ** exponent, broadcast. As torch.pow. Raises: RuntimeError for negative integer powers of integers."""
    ...

def prod(input, dim=None, keepdim=False, *, dtype=None) -> Tensor:
    """The product of all elements or along one `dim`; right gradients of any order at zeros. As torch.prod."""
    ...

def rand(*size, generator=None, dtype=None, device=None, requires_grad=False, **named) -> Tensor:
    """Uniform random numbers of [0, 1). As torch.rand."""
    ...

def rand_like(input, *, generator=None, dtype=None, device=None, requires_grad=False) -> Tensor:
    """rand() with the shape, dtype and device of `input`. As torch.rand_like."""
    ...

def randint(low, high=None, size=None, *, generator=None, dtype=None, device=None, requires_grad=False) -> Tensor:
    """Random integers of [low, high), int64: `randint(high, size)` or `randint(low, high, size)`. As torch.randint."""
    ...

def randint_like(input, low, high=None, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """randint() with the shape, dtype and device of `input`. As torch.randint_like."""
    ...

def randn(*size, generator=None, dtype=None, device=None, requires_grad=False, **named) -> Tensor:
    """Normal random numbers with mean 0 and variance 1. As torch.randn."""
    ...

def randn_like(input, *, generator=None, dtype=None, device=None, requires_grad=False) -> Tensor:
    """randn() with the shape, dtype and device of `input`. As torch.randn_like."""
    ...

def randperm(n, *, generator=None, dtype=None, device=None, requires_grad=False) -> Tensor:
    """A random order of 0 .. n-1, int64. As torch.randperm."""
    ...

def ravel(input) -> Tensor:
    """All elements as one dimension. As torch.ravel."""
    ...

def real(input) -> Tensor:
    """The real part, a view; a real input comes back as it is. As torch.real."""
    ...

def reciprocal(input) -> Tensor:
    """1 / input. Elementwise, any shape; integers give floats. As torch.reciprocal."""
    ...

def relu(input, inplace=False) -> Tensor:
    """max(input, 0), elementwise. As torch.nn.functional.relu and torch.relu."""
    ...

def remainder(input, other) -> Tensor:
    """The remainder with the sign of the divisor. As torch.remainder."""
    ...

def repeat_interleave(input, repeats, dim=None, *, output_size=None) -> Tensor:
    """Each element (slice along `dim`) repeated `repeats` times: one number, or one for each."""
    ...

def reshape(input, *shape) -> Tensor:
    """The elements in another shape; -1 is computed. A view where possible. As torch.reshape."""
    ...

def roll(input, shifts, dims=None) -> Tensor:
    """Shifted along `dims`, what leaves at one end enters at the other. As torch.roll."""
    ...

def rot90(input, k=1, dims=...) -> Tensor:
    """Turned by k times 90 degrees in the plane of two dimensions. As torch.rot90."""
    ...

def round(input, *, decimals=0) -> Tensor:
    """The nearest integer, halves to even; `decimals` digits after the point. As torch.round."""
    ...

def rsqrt(input) -> Tensor:
    """1 / sqrt(input). Elementwise, any shape; integers give floats. As torch.rsqrt."""
    ...

def scatter(input, dim, index, src=None, *, value=None, reduce=None) -> Tensor:
    """A copy of `input` with src (a tensor or number) at `index` along `dim`. As torch.scatter; no `reduce=`."""
    ...

def scatter_add(input, dim, index, src) -> Tensor:
    """`input` plus src at `index` along `dim`; repeated positions sum in a fixed order. As torch.scatter_add."""
    ...

def scatter_reduce(input, dim, index, src, reduce, *, include_self=True) -> Tensor:
    """`input` reduced with src at `index` along `dim`: sum, prod, mean, amax or amin. As torch.scatter_reduce."""
    ...

def searchsorted(sorted_sequence, input, *, out_int32=False, right=False, side=None) -> Tensor:
    """Where each value would be inserted into its sorted sequence (last dimension), int64. As torch.searchsorted."""
    ...

def select(input, dim, index) -> Tensor:
    """The slice number `index` along `dim`, a view. As torch.select. Raises: IndexError out of range."""
    ...

def set_printoptions(precision=None, threshold=None, edgeitems=None, linewidth=None, profile=None, sci_mode=None) -> None:
    """Digits, size above which tensors are summarised, items at the edges, line width. As torch.set_printoptions."""
    ...

def sgn(input) -> Tensor:
    """input / |input|, 0 at 0. As torch.sgn."""
    ...

short: dtype

def sigmoid(input) -> Tensor:
    """1 / (1 + exp(-input)). As torch.sigmoid."""
    ...

def sign(input) -> Tensor:
    """-1, 0 or 1. As torch.sign. Raises: RuntimeError for complex input (use sgn)."""
    ...

def sin(input) -> Tensor:
    """The sine. Elementwise, any shape; integers give floats. As torch.sin."""
    ...

def sinh(input) -> Tensor:
    """The hyperbolic sine. Elementwise, any shape; integers give floats. As torch.sinh."""
    ...

def slogdet(input) -> tuple[Tensor, Tensor]:
    """(sign, logabsdet) of the determinant. As torch.slogdet, torch.linalg.slogdet."""
    ...

def softmax(input, dim=None, dtype=None) -> Tensor:
    """exp(input) / sum(exp(input)) along `dim`; `dtype` converts first. Same shape. As torch.nn.functional.softmax."""
    ...

def softmax_backward(grad, y, dim, scale=1.0) -> Tensor:
    """scale * y * (grad - sum(grad * y)) along `dim` >= 0; internal: softmax and attention."""
    ...

def sort(input, dim=-1, descending=False, stable=False) -> tuple[Tensor, Tensor]:
    """(values, indices) in order along `dim`; NaN is the largest; always stable. As torch.sort."""
    ...

def split(input, split_size_or_sections, dim=0) -> tuple[Tensor, ...]:
    """Pieces of one size (the last may be smaller) or of given sizes along `dim`, views. As torch.split."""
    ...

def sqrt(input) -> Tensor:
    """The square root. Elementwise, any shape; integers give floats. As torch.sqrt."""
    ...

def square(input) -> Tensor:
    """input ** 2. As torch.square."""
    ...

def squeeze(input, dim=None) -> Tensor:
    """Without the dimensions of size 1 (all, or those of `dim`). As torch.squeeze."""
    ...

def stack(tensors, dim=0) -> Tensor:
    """Tensors of one shape side by side along a new dimension. As torch.stack."""
    ...

def std(input, dim=None, unbiased=None, keepdim=False, *, correction=None) -> Tensor:
    """The standard deviation over `dim` (int, tuple, None: all), of n - correction (1) degrees. As torch.std."""
    ...

def std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None) -> tuple[Tensor, Tensor]:
    """(standard deviation, mean) over `dim`. As torch.std_mean."""
    ...

def sub(input, other, *, alpha=1) -> Tensor:
    """input - alpha * other, broadcast. As torch.sub. Raises: RuntimeError for booleans."""
    ...

def sum(input, dim=None, keepdim=False, *, dtype=None) -> Tensor:
    """The sum over `dim` (int, tuple, None: all); integers sum in int64, half types in float32. As torch.sum."""
    ...

def sum_to_size(input, *size) -> Tensor:
    """The sum over the dimensions that broadcasting `size` to `input.shape` would repeat. As torch.Tensor.sum_to_size."""
    ...

def swapaxes(input, axis0, axis1) -> Tensor:
    """Two dimensions exchanged, a view. As torch.swapaxes."""
    ...

def swapdims(input, dim0, dim1) -> Tensor:
    """Two dimensions exchanged, a view. As torch.swapdims."""
    ...

def t(input) -> Tensor:
    """The transpose of a matrix; a vector or scalar as it is. As torch.t."""
    ...

def take(input, index) -> Tensor:
    """Elements of the flattened input, in the shape of `index`. As torch.take. Raises: IndexError out of range."""
    ...

def take_along_dim(input, indices, dim=None) -> Tensor:
    """Values at `indices` along `dim` with broadcasting (None: of the flattened input). As torch.take_along_dim."""
    ...

def tan(input) -> Tensor:
    """The tangent. Elementwise, any shape; integers give floats. As torch.tan."""
    ...

def tanh(input) -> Tensor:
    """The hyperbolic tangent. Elementwise, any shape; integers give floats. As torch.tanh."""
    ...

def tensor(data, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """A new leaf tensor with a copy of `data`: numbers, nested sequences, arrays. As torch.tensor."""
    ...

def tensor_split(input, indices_or_sections, dim=0) -> tuple[Tensor, ...]:
    """`sections` pieces of nearly equal size, or pieces cut at indices, views. As torch.tensor_split."""
    ...

def tensordot(a, b, dims=2) -> Tensor:
    """The sum over `dims` (a number, or two lists of dimensions) of both operands. As torch.tensordot."""
    ...

def tile(input, *dims) -> Tensor:
    """The tensor repeated `dims` times; missing dimensions repeat once. As torch.tile."""
    ...

def to(input, *args, dtype=None, device=None, copy=False, non_blocking=False) -> Tensor:
    """`input` with another dtype or device, or like another tensor; itself if nothing changes. As torch.Tensor.to."""
    ...

def topk(input, k, dim=-1, largest=True, sorted=True) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k largest (or smallest) along `dim`, in order. As torch.topk; NaN is the largest."""
    ...

def transfer(input, where) -> Tensor:
    """`input` on another device; internal to `Tensor.to`."""
    ...

def transpose(input, dim0, dim1) -> Tensor:
    """Two dimensions exchanged, a view. As torch.transpose."""
    ...

def tril(input, diagonal=0) -> Tensor:
    """The lower triangle of the last two dimensions, zeros above. As torch.tril."""
    ...

def tril_indices(row, col, offset=0, *, dtype=None, device=None) -> Tensor:
    """(2, n) row and column numbers of the lower triangle. As torch.tril_indices."""
    ...

def triu(input, diagonal=0) -> Tensor:
    """The upper triangle of the last two dimensions, zeros below. As torch.triu."""
    ...

def triu_indices(row, col, offset=0, *, dtype=None, device=None) -> Tensor:
    """(2, n) row and column numbers of the upper triangle. As torch.triu_indices."""
    ...

def trunc(input) -> Tensor:
    """The integer part, in the input's dtype. Elementwise, any shape; integers give floats. As torch.trunc."""
    ...

uint8: dtype

def unbind(input, dim=0) -> tuple[Tensor, ...]:
    """All slices along `dim`, views. As torch.unbind."""
    ...

def unflatten(input, dim, sizes) -> Tensor:
    """One dimension split into `sizes` (one may be -1). As torch.unflatten."""
    ...

def unique(input, sorted=True, return_inverse=False, return_counts=False, dim=None) -> Any:
    """The distinct elements (slices along `dim`) in ascending order, with inverse and counts if asked. As torch.unique."""
    ...

def unsqueeze(input, dim) -> Tensor:
    """With a dimension of size 1 inserted at `dim`. As torch.unsqueeze."""
    ...

def var(input, dim=None, unbiased=None, keepdim=False, *, correction=None) -> Tensor:
    """The variance over `dim` (int, tuple, None: all), divided by n - correction (1). As torch.var."""
    ...

def var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None) -> tuple[Tensor, Tensor]:
    """(variance, mean) over `dim`. As torch.var_mean."""
    ...

def vdot(input, other) -> Tensor:
    """The product of two vectors (K), the first conjugated. As torch.vdot."""
    ...

def view(input, *shape) -> Tensor:
    """The same memory in another shape. As torch.Tensor.view."""
    ...

def view_as_complex(input) -> Tensor:
    """(..., 2) real numbers as complex numbers in the same memory. As torch.view_as_complex."""
    ...

def view_as_real(input) -> Tensor:
    """A complex tensor as (..., 2) real numbers in the same memory. As torch.view_as_real."""
    ...

def view_scatter(input, part, steps) -> Tensor:
    """`input` with a viewed part replaced; internal to in-place changes of views."""
    ...

def vstack(tensors) -> Tensor:
    """Joined along the first dimension as rows. As torch.vstack."""
    ...

def where(condition, input=None, other=None) -> Any:
    """`input` where `condition` (bool), else `other`, broadcast; with the condition alone the indices of its nonzeros."""
    ...

def window_spread(input, windows) -> Tensor:
    """The adjoint of `window_sum`; internal."""
    ...

def window_sum(input, windows) -> Tensor:
    """Sums over pooling windows; internal."""
    ...

def wrap(array) -> Tensor:
    """A leaf Tensor over a raw array."""
    ...

def zeros(*size, dtype=None, device=None, requires_grad=False, **named) -> Tensor:
    """Zeros of shape `size`. As torch.zeros."""
    ...

def zeros_like(input, *, dtype=None, device=None, requires_grad=False) -> Tensor:
    """Zeros with the shape, dtype and device of `input`. As torch.zeros_like."""
    ...
