"""gradcheck and gradgradcheck: derivatives against central differences.

Every output is read as its real and its imaginary part, so that only real functions L are differentiated. For a
complex input z = x + iy the gradient is dL/dx + i dL/dy, PyTorch's convention; both are measured.
"""
from __future__ import annotations

import itertools
import warnings

import numpy as np

from ..backend import dtypes
from ..backend.device import backend_of
from ..tensor import Tensor, make
from . import engine
from .modes import enable_grad

__all__ = ["gradcheck", "gradgradcheck", "GradcheckError"]


class GradcheckError(RuntimeError):
    """A derivative that does not agree with the differences. As torch.autograd.gradcheck.GradcheckError."""


def gradcheck(
    func, inputs, *, eps=1e-6, atol=1e-5, rtol=1e-3, raise_exception=True, nondet_tol=0.0, check_undefined_grad=True,
    check_grad_dtypes=False, check_batched_grad=False, check_batched_forward_grad=False, check_forward_ad=False,
    check_backward_ad=True, fast_mode=False, masked=None,
) -> bool:
    """Whether the gradients of `func(*inputs)` agree with central differences. As torch.autograd.gradcheck.

    Inputs that require grad should be float64 or complex128. `fast_mode` compares one random direction instead of
    every entry. With `check_undefined_grad` each output is differentiated while the others' gradients are undefined,
    without it while they are zero. A failure names input, output, index, both numbers and the operator.

    Raises: GradcheckError for a disagreement (False instead, unless `raise_exception`); ValueError when no input
    requires grad or one overlaps itself; NotImplementedError for what there is not (batched and forward mode).
    """
    _only_reverse(check_batched_grad, check_batched_forward_grad, check_forward_ad, masked)
    if not check_backward_ad:
        raise ValueError("[gradcheck] expected check_backward_ad=True: reverse mode is what there is to check")
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    try:
        wanting = _checked_inputs(inputs)
        check = _Check(func, inputs, wanting, eps, atol, rtol)
        check.run(fast_mode, check_undefined_grad, check_grad_dtypes, nondet_tol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func, inputs, grad_outputs=None, *, eps=1e-6, atol=1e-5, rtol=1e-3, gen_non_contig_grad_outputs=False,
    raise_exception=True, nondet_tol=0.0, check_undefined_grad=True, check_grad_dtypes=False, check_batched_grad=False,
    check_fwd_over_rev=False, check_rev_over_rev=True, fast_mode=False, masked=False,
) -> bool:
    """Whether the gradients of the gradients agree with central differences. As torch.autograd.gradgradcheck.

    They are taken with respect to the inputs and to `grad_outputs` (random numbers unless given).
    Raises: as gradcheck.
    """
    _only_reverse(check_batched_grad, False, check_fwd_over_rev, masked)
    if not check_rev_over_rev:
        raise ValueError("[gradgradcheck] expected check_rev_over_rev=True: reverse mode is what there is to check")
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if grad_outputs is None:
        outs = _differentiable(func(*inputs))
        grad_outputs = tuple(_random_like(o, gen_non_contig_grad_outputs) for o in outs)
    else:
        grad_outputs = (grad_outputs,) if isinstance(grad_outputs, Tensor) else tuple(grad_outputs)
    if not grad_outputs:
        raise ValueError("[gradgradcheck] no output requires grad: there is nothing to differentiate twice")
    n = len(grad_outputs)

    def gradients(*args):
        given, cotangents = args[:-n], args[-n:]
        with enable_grad():
            outs = _differentiable(func(*given))
            targets = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
            grads = engine.grad(outs, targets, list(cotangents), create_graph=True, allow_unused=True)
        return tuple(g for g in grads if g is not None)

    return gradcheck(
        gradients, inputs + grad_outputs, eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
        nondet_tol=nondet_tol, check_undefined_grad=check_undefined_grad, check_grad_dtypes=check_grad_dtypes,
        fast_mode=fast_mode,
    )


def _only_reverse(batched, batched_forward, forward, masked):
    if batched or batched_forward:
        raise NotImplementedError("[gradcheck] batched gradients are not there: leave check_batched_grad False")
    if forward:
        raise NotImplementedError("[gradcheck] forward mode is not there: leave it False")
    if masked:
        raise NotImplementedError("[gradcheck] sparse tensors are not there: leave masked unset")


def _checked_inputs(inputs):
    wanting = []
    for i, x in enumerate(inputs):
        if not (isinstance(x, Tensor) and x.requires_grad):
            continue
        if x.dtype.to_complex() is not dtypes.complex128:
            warnings.warn(f"[gradcheck] input {i} requires gradient and is {x.dtype.name}, not double precision: "
                          "differences will likely be too coarse", stacklevel=3)
        if x._array.size and any(s == 0 and n > 1 for s, n in zip(x._array.strides, x.shape)):
            raise ValueError(f"[gradcheck] input {i} has a dimension with stride 0: its elements share memory, "
                             "clone() it")
        wanting.append(i)
    if not wanting:
        raise ValueError("[gradcheck] expects at least one input tensor to require gradient, but none of them do")
    return wanting


def _tensors(out):
    outs = (out,) if isinstance(out, Tensor) else tuple(out)
    for o in outs:
        if not isinstance(o, Tensor):
            raise ValueError(f"[gradcheck] expects func to return Tensors, got {type(o).__name__}")
    return outs


def _differentiable(out):
    return [o for o in _tensors(out) if o.requires_grad]


def _random_like(t, gapped):
    shape = (*t.shape[:-1], 2 * t.shape[-1]) if gapped and t.ndim else t.shape
    values = np.random.default_rng(0).uniform(0.1, 1.1, shape)
    if t.dtype.is_complex:
        values = values + 1j * np.random.default_rng(1).uniform(0.1, 1.1, shape)
    out = make(_device(t, values))
    if shape != t.shape:
        out._array = out._array[..., ::2]
    return out.requires_grad_()


def _device(like, values):
    """A raw array with `values` in the dtype and on the device of tensor `like`."""
    backend = backend_of(like._array)
    return backend.from_host(np.asarray(values).astype(like._array.dtype), backend.device_of(like._array).index)


def _host(t):
    wide = np.complex128 if t.dtype.is_complex else np.float64
    return np.array(backend_of(t._array).to_host(t._array)).astype(wide)


def _units(dtype):
    """The directions in which an entry can move, or be read: real, and imaginary for a complex one."""
    return (1.0, 1j) if dtype.is_complex else (1.0,)


class _Check:
    """One function at one point."""

    def __init__(self, func, inputs, wanting, eps, atol, rtol):
        self.func, self.inputs, self.wanting = func, inputs, wanting
        self.eps, self.atol, self.rtol = eps, atol, rtol
        self.differences = None
        with enable_grad():
            every = _tensors(func(*inputs))
        # which outputs carry a gradient is decided once: inside the differences nothing else may be read
        self.kept = [j for j, o in enumerate(every) if o.requires_grad]
        self.outputs = [every[j] for j in self.kept]
        self.every = [j for j, o in enumerate(every) if dtypes.is_float(o._array.dtype)]

    def run(self, fast, undefined, grad_dtypes, nondet_tol):
        if not self.outputs:
            self.constant()
            return
        for j in range(len(self.outputs)):
            (self.along if fast else self.entries)(j, undefined, grad_dtypes, nondet_tol)
        self.zero_cotangent()

    def evaluate(self):
        """The outputs' values now, as host arrays."""
        every = _tensors(self.func(*self.inputs))
        return [_host(every[j]) for j in (self.kept or self.every)]

    def derivative(self, i, index, direction):
        """Central difference of every output when input `i` moves along `direction` at `index` (or everywhere)."""
        array = self.inputs[i]._array
        before = array.copy()
        ends = []
        for sign in (1, -1):
            array[index] = before[index] + _device(self.inputs[i], sign * self.eps * np.asarray(direction))
            ends.append(self.evaluate())
            array[...] = before
        return [(up - down) / (2 * self.eps) for up, down in zip(*ends)]

    def gradients(self, j, cotangent, undefined):
        """d(output j . cotangent)/d(inputs), as host arrays; zeros where undefined."""
        targets = [self.inputs[i] for i in self.wanting]
        given = make(_device(self.outputs[j], cotangent))
        if undefined:
            outs, cotangents = [self.outputs[j]], [given]
        else:
            outs = self.outputs
            cotangents = [given if k == j else make(_device(o, np.zeros(o.shape))) for k, o in enumerate(outs)]
        return engine.grad(outs, targets, cotangents, retain_graph=True, allow_unused=True)

    def measured(self):
        """{input: [for each unit of the input: [for each output: (input entries, output entries)]]}, once."""
        if self.differences is None:
            self.differences = {}
            for i in self.wanting:
                x = self.inputs[i]
                rows = [[[] for _ in self.outputs] for _ in _units(x.dtype)]
                for index in itertools.product(*map(range, x.shape)):
                    for u, unit in enumerate(_units(x.dtype)):
                        for j, moved in enumerate(self.derivative(i, index, unit)):
                            rows[u][j].append(moved.reshape(-1))
                self.differences[i] = [
                    [np.array(r).reshape(x._array.size, o._array.size) for r, o in zip(each, self.outputs)]
                    for each in rows
                ]
        return self.differences

    def entries(self, j, undefined, grad_dtypes, nondet_tol):
        out = self.outputs[j]
        measured = self.measured()
        for k, unit in itertools.product(range(out._array.size), _units(out.dtype)):
            cotangent = np.zeros(out._array.size, np.complex128 if out.dtype.is_complex else np.float64)
            cotangent[k] = unit
            cotangent = cotangent.reshape(out.shape)
            grads = self.gradients(j, cotangent, undefined)
            self.properties(j, grads, grad_dtypes)
            if k == 0:
                self.repeatable(j, grads, self.gradients(j, cotangent, undefined), nondet_tol)
            part = np.real if unit == 1 else np.imag
            for i, g in zip(self.wanting, grads):
                x = self.inputs[i]
                moves = [part(each[j][:, k]) for each in measured[i]]
                wanted = moves[0] if len(moves) == 1 else moves[0] + 1j * moves[1]
                found = np.zeros(wanted.shape) if g is None else _host(g).reshape(-1)
                bad = ~(np.abs(found - wanted) <= self.atol + self.rtol * np.abs(wanted))
                for at in np.flatnonzero(bad)[:1]:
                    index = tuple(map(int, np.unravel_index(at, x.shape)))
                    row = tuple(map(int, np.unravel_index(k, out.shape)))
                    self.refuse(i, j, f"entry (input {i}, output {j}): input index {index}, output index {row}"
                                + ("" if unit == 1 else ", imaginary part of the output"), found[at], wanted[at])

    def along(self, j, undefined, grad_dtypes, nondet_tol):
        rng = np.random.default_rng(0)
        out = self.outputs[j]
        cotangent = _direction(rng, out)
        grads = self.gradients(j, cotangent, undefined)
        self.properties(j, grads, grad_dtypes)
        self.repeatable(j, grads, self.gradients(j, cotangent, undefined), nondet_tol)
        for i, g in zip(self.wanting, grads):
            u = _direction(rng, self.inputs[i])
            moved = self.derivative(i, ..., u)[j]
            wanted = float(np.sum(np.real(np.conj(cotangent) * moved)))
            found = 0.0 if g is None else float(np.sum(np.real(np.conj(_host(g)) * u)))
            if not abs(found - wanted) <= self.atol + self.rtol * abs(wanted):
                self.refuse(i, j, "along a random direction (fast_mode)", found, wanted)

    def refuse(self, i, j, where, found, wanted):
        raise GradcheckError(
            f"[gradcheck] Jacobian mismatch for output {j} with respect to input {i}, {where}: "
            f"numerical {wanted:.10g}, analytical {found:.10g}, difference {abs(found - wanted):.3g}, allowed "
            f"{self.atol + self.rtol * abs(wanted):.3g}; the output was made by {self.operator(j)}"
        )

    def operator(self, j):
        """The operator's label, and those before it."""
        names, node = [], self.outputs[j].grad_fn
        while node is not None and len(names) < 4:
            names.append(node.name())
            node = next((n for n, _ in node.next_functions if n is not None), None)
        return " <- ".join(names) or "no operator"

    def properties(self, j, grads, grad_dtypes):
        for i, g in zip(self.wanting, grads):
            x = self.inputs[i]
            if g is None:
                continue
            if g.shape != x.shape:
                raise GradcheckError(f"[gradcheck] the gradient of input {i} has shape {g.shape}, the input {x.shape}")
            if grad_dtypes and g.dtype is not x.dtype:
                raise GradcheckError(
                    f"[gradcheck] the gradient of input {i} is {g.dtype.name}, the input {x.dtype.name}")

    def repeatable(self, j, first, second, tolerance):
        for i, a, b in zip(self.wanting, first, second):
            if a is None and b is None:
                continue
            worst = np.inf if a is None or b is None else np.max(np.abs(_host(a) - _host(b)), initial=0.0)
            if worst > tolerance:
                raise GradcheckError(
                    f"[gradcheck] backward is not reentrant: the gradient of input {i} for output {j} differs by "
                    f"{worst:.3g} between two runs with the same values, allowed nondet_tol={tolerance}; the output "
                    f"was made by {self.operator(j)}"
                )

    def zero_cotangent(self):
        for j, out in enumerate(self.outputs):
            for i, g in zip(self.wanting, self.gradients(j, np.zeros(out.shape), True)):
                if g is not None and np.any(_host(g) != 0):
                    raise GradcheckError("[gradcheck] backward not multiplied by grad_output: the gradient of "
                                         f"input {i} "
                                         f"is not zero for a zero gradient of output {j}, made by {self.operator(j)}")

    def constant(self):
        """No output requires grad: then none may depend on the inputs."""
        for i in self.wanting:
            for unit in _units(self.inputs[i].dtype):
                moved = self.derivative(i, ..., unit * np.ones(self.inputs[i].shape))
                for j, d in zip(self.every, moved):
                    if np.any(np.abs(d) > self.atol):
                        raise GradcheckError(
                            f"[gradcheck] numerical gradient for function expected to be zero: output {j} does not "
                            f"require grad, but it changes with input {i} by {np.max(np.abs(d)):.3g}"
                        )


def _direction(rng, t):
    u = rng.standard_normal(t.shape)
    if t.dtype.is_complex:
        u = u + 1j * rng.standard_normal(t.shape)
    norm = np.sqrt(np.sum(np.abs(u) ** 2))
    return u / norm if norm else u
