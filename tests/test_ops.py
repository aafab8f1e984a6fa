"""Tests made from each line of cases.py, and that every operator has a line."""
from __future__ import annotations

import functools
import inspect
import re

import numpy as np
import pytest
from case import (
    EPS,
    S,
    close,
    dtype_name,
    host,
    identical,
    is_tensor,
    leaves,
    operators_of,
    ours,
    tensor,
    torch_tensor,
    watched,
)
from cases import CASES

from tinytorch_gpu import ops
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.autograd.gradcheck import gradcheck, gradgradcheck
from tinytorch_gpu.autograd.operator import REGISTRY
from tinytorch_gpu.autograd.pointwise import Pointwise
from tinytorch_gpu.backend import dtypes
from tinytorch_gpu.backend.device import backend_for, resolve
from tinytorch_gpu.backend.device import device as device_class
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.tensor import Tensor

HALF = ("float16", "bfloat16")
WIDER = {"float32": "float64", "float16": "float64", "bfloat16": "float64", "complex64": "complex128"}


def tolerance(case, name, arrays):
    """Allowed error relative to the largest element: a few roundings of `name`'s arithmetic, more for long sums.

    Half types compute in float32 and round once for each operator in the line: 2 eps.
    """
    eps = EPS.get(name, EPS["float32"])
    if name in HALF:
        return 2 * eps * case.tolerance
    return 16 * eps * (1 + max((a.size for a in arrays), default=1) ** 0.5) * case.tolerance


def in_each_dtype(floating_only=False, which=lambda case: True, among=lambda name: True):
    """Makes a test of (case, name, ...) one for each line that `which` chooses, run in its dtypes `among` them.

    A test for each dtype would be 9,000 more: half the time would go into calling them. A failure names its dtypes.
    """
    found = [(c, [d for d in c.dtypes(floating_only) if among(d)]) for c in CASES if which(c)]

    def decorate(test):
        def each(case, names, **fixtures):
            failed, skipped = {}, {}
            for name in names:
                try:
                    test(case, name, **fixtures)
                except pytest.skip.Exception as e:
                    skipped[name] = e
                except Exception as e:
                    failed[name] = e
            if failed:
                error = next(iter(failed.values()))
                error.add_note(f"{case.id} fails in {', '.join(failed)}; this is {next(iter(failed))}")
                raise error
            if len(skipped) == len(names):
                raise next(iter(skipped.values()))

        each.__name__, each.__doc__, each.__module__ = test.__name__, test.__doc__, test.__module__
        own = [p.replace(name="names") if p.name == "name" else p for p in inspect.signature(test).parameters.values()]
        each.__signature__ = inspect.Signature(own)
        return pytest.mark.parametrize("case, names", [pytest.param(*f, id=f[0].id) for f in found if f[1]])(each)

    return decorate


def lines(which=lambda case: True):
    return [pytest.param(c, id=c.id) for c in CASES if which(c)]


def our_inputs(case, arrays, requires_grad=True):
    return [tensor(a, w and requires_grad and case.differentiable) for a, w in zip(arrays, case.wanting(arrays))]


def their_inputs(torch, case, arrays):
    return [torch_tensor(torch, a, w and case.differentiable) for a, w in zip(arrays, case.wanting(arrays))]


def differentiable(out):
    return [o for o in leaves(out) if is_tensor(o) and o.requires_grad]


def cotangents(rng, outs):
    """Random host arrays like the outputs."""
    return [draw_like(rng, host(o)) for o in outs]


def draw_like(rng, array):
    values = rng.uniform(-1, 1, array.shape)
    if array.dtype.kind == "c":
        values = values + 1j * rng.uniform(-1, 1, array.shape)
    return values.astype(array.dtype)


def our_gradients(case, inputs, given, out=None, **options):
    """Gradients (or None) of the inputs that want one, for the cotangents `given`."""
    outs = differentiable(case.fn(ours, *inputs) if out is None else out)
    wanting = [x for x in inputs if x.requires_grad]
    return engine.grad(outs, wanting, [tensor(g) for g in given], allow_unused=True, **options)


def their_gradients(torch, case, inputs, given):
    outs = differentiable(case.torch_fn(torch, *inputs))
    wanting = [x for x in inputs if x.requires_grad]
    return torch.autograd.grad(outs, wanting, [torch_tensor(torch, g) for g in given], allow_unused=True)


def compare(actual, expected, tol, what):
    """Results of a line, leaf by leaf."""
    actual, expected = leaves(actual), leaves(expected)
    assert len(actual) == len(expected), f"{what}: {len(actual)} results, expected {len(expected)}"
    for i, (a, e) in enumerate(zip(actual, expected)):
        if is_tensor(e):
            close(a, e, tol, f"{what} {i}")
        else:
            assert a == e, f"{what} {i}: {a!r}, expected {e!r}"


def compare_gradients(actual, expected, tol, what="gradient of input"):
    """A gradient that one package leaves undefined is zero in the other."""
    assert len(actual) == len(expected)
    for i, (a, e) in enumerate(zip(actual, expected)):
        if a is None or e is None:
            some = a if a is not None else e
            assert some is None or not host(some).any(), f"{what} {i}: undefined in one package, not zero in the other"
        else:
            close(a, e, tol, f"{what} {i}")


# the table is whole

def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def operators_of_gradients(case):
    """What the backward of a line applies, under create_graph."""
    if not case.differentiable:
        return []
    seen, rng = [], np.random.default_rng(0)
    inputs = our_inputs(case, case.draw(rng, case.dtypes(floating_only=True)[0]))
    outs = case.fn(ours, *inputs)
    with watched(lambda cls, *rest: seen.append(cls)):
        our_gradients(case, inputs, cotangents(rng, differentiable(outs)), outs, create_graph=case.order2)
    return seen


def test_every_operator_has_a_line():
    missing, inner = set(REGISTRY), set()
    for case in CASES:
        names = case.dtypes()  # some operators run for complex or integer values only
        for name in {names[0], names[-1], "complex128" if case.complex else names[0]}:
            missing -= {cls.__name__ for cls in operators_of(case, name)}
        inner |= {cls.__name__ for cls in operators_of_gradients(case)}
    # what only rules use (SoftmaxGradient) is tested by the lines whose backward applies it
    missing = {name for name in missing if name not in inner or snake(name) in ops.PUBLIC}
    assert not missing, f"operators without a line in tests/cases.py: {sorted(missing)}"


# against PyTorch

@in_each_dtype()
def test_forward_agrees_with_pytorch(case, name, rng, torch):
    arrays = case.draw(rng, name)
    actual = case.fn(ours, *our_inputs(case, arrays))
    wide = WIDER.get(name)
    exact = [a.astype(dtypes.from_any(wide).np if a.dtype.kind == "c" else np.float64)
             if wide and dtypes.is_float(a.dtype) else a for a in arrays]
    expected = case.torch_fn(torch, *[torch_tensor(torch, a) for a in exact])
    compare(actual, expected, tolerance(case, name, arrays), f"{case.id} {name} result")


@in_each_dtype(which=lambda c: not c.dtype_differs)
def test_result_dtype_is_pytorchs(case, name, rng, torch):
    arrays = case.draw(rng, name)
    try:
        expected = case.torch_fn(torch, *[torch_tensor(torch, a) for a in arrays])
    except (RuntimeError, NotImplementedError) as e:
        if name in HALF and "not implemented for" in str(e):
            pytest.skip(f"PyTorch's CPU build has no {name} kernel here: {e}")
        raise
    actual = case.fn(ours, *[tensor(a) for a in arrays])
    assert [dtype_name(a) for a in leaves(actual) if is_tensor(a)] == \
           [dtype_name(e) for e in leaves(expected) if is_tensor(e)]


@in_each_dtype(True, lambda c: c.differentiable and c.torch_gradients, lambda name: name not in HALF)
def test_gradients_agree_with_pytorch(case, name, rng, torch):
    arrays = case.draw(rng, name)
    inputs, theirs = our_inputs(case, arrays), their_inputs(torch, case, arrays)
    given = cotangents(rng, differentiable(case.torch_fn(torch, *theirs)))
    actual = our_gradients(case, inputs, given)
    compare_gradients(actual, their_gradients(torch, case, theirs, given), 4 * tolerance(case, name, arrays))
    for g, x in zip(actual, [x for x in inputs if x.requires_grad]):
        assert g is None or (g.dtype is x.dtype and g.shape == x.shape)


@in_each_dtype(True, lambda c: c.differentiable and c.torch_gradients, lambda name: name in HALF)
def test_half_gradients_agree_with_pytorchs_in_float64(case, name, rng, torch):
    arrays = case.draw(rng, name)
    exact = [a.astype(np.float64) if dtypes.is_float(a.dtype) else a for a in arrays]
    inputs, theirs = our_inputs(case, arrays), their_inputs(torch, case, exact)
    given = cotangents(rng, differentiable(case.fn(ours, *inputs)))
    actual = our_gradients(case, inputs, given)
    expected = their_gradients(torch, case, theirs, [g if g.dtype.kind == "c" else g.astype(np.float64)
                                                               for g in given])
    # the forward's results were rounded once, so was what a rule saved of them, and the gradient: four roundings
    compare_gradients(actual, expected, 2 * tolerance(case, name, arrays))


@pytest.mark.parametrize("case", lines(lambda c: c.declared_constant))
def test_results_that_have_no_gradient_require_none(case, rng):
    arrays = case.draw(rng, case.dtypes()[0])
    inputs = [tensor(a, dtypes.is_float(a.dtype)) for a in arrays]
    assert not any(o.requires_grad for o in leaves(case.fn(ours, *inputs)) if is_tensor(o))


# one rule, two readings

@in_each_dtype()
def test_raw_and_tensor_readings_are_bit_equal(case, name, rng):
    arrays = case.draw(rng, name)

    def same(cls, args, params, out):
        raw = cls.apply(*[a._array if isinstance(a, Tensor) else a for a in args], **params)
        for i, (r, o) in enumerate(zip(leaves(raw), leaves(out))):
            identical(r, o, f"{cls.__name__} on raw arrays, result {i}")

    inputs = our_inputs(case, arrays)
    with watched(same):
        out = case.fn(ours, *inputs)
    if case.raw:
        with np.errstate(all="raise", under="ignore"):
            raw = case.fn(ours, *[t._array for t in inputs])
        for i, (r, o) in enumerate(zip(leaves(raw), leaves(out))):
            if is_tensor(o):
                assert not isinstance(r, Tensor), "a raw array in, a Tensor out"
                identical(r, o, f"raw result {i}")
            else:
                assert r == o


@in_each_dtype(True, lambda c: c.differentiable)
def test_backward_and_create_graph_are_bit_equal(case, name, rng):
    arrays = case.draw(rng, name)
    inputs = our_inputs(case, arrays)
    given = cotangents(rng, differentiable(case.fn(ours, *inputs)))
    with use_kernels(False):  # a kernel's last digits are its own; here the two readings of one formula are compared
        plain = our_gradients(case, inputs, given)
        graph = our_gradients(case, inputs, given, create_graph=case.order2)
    for i, (p, g) in enumerate(zip(plain, graph)):
        assert (p is None) == (g is None)
        if p is not None:
            assert not p.requires_grad
            identical(p, g, f"gradient {i} under create_graph")


@pytest.mark.parametrize("case", lines())
def test_two_runs_are_bit_equal(case, rng):
    name = "float32" if case.real else case.dtypes()[0]
    arrays = case.draw(rng, name)
    runs = [case.fn(ours, *our_inputs(case, arrays)) for _ in range(2)]
    for a, b in zip(*map(leaves, runs)):
        if is_tensor(a):
            identical(a, b, "second run")
    if case.differentiable:
        given = cotangents(rng, differentiable(runs[0]))
        first, second = (our_gradients(case, our_inputs(case, arrays), given) for _ in range(2))
        for a, b in zip(first, second):
            if a is not None:
                identical(a, b, "gradient of the second run")


# layouts

def laid_out(array, layout):
    """A device array with the same values in another memory layout; None where the layout does not exist."""
    backend = backend_for(resolve())
    if array.ndim == 0 or array.size == 0:
        return None
    if layout == "transposed":
        axes = tuple(reversed(range(array.ndim)))
        return backend.from_host(np.ascontiguousarray(array.transpose(axes))).transpose(axes)
    if layout == "strided":
        return backend.from_host(np.repeat(array, 2, axis=-1))[..., ::2]
    return backend.from_host(np.ascontiguousarray(np.flip(array, 0)))[::-1]


LAYOUTS = ("transposed", "strided", "negative")


def wrap(array, requires_grad):
    t = Tensor(array)
    t._req = requires_grad
    return t


@pytest.mark.parametrize("case", lines(lambda c: c.layouts))
def test_memory_layout_does_not_matter(case, rng):
    name = case.dtypes()[0]
    arrays = case.draw(rng, name)
    plain = our_inputs(case, arrays)
    expected = case.fn(ours, *plain)
    given = cotangents(rng, differentiable(expected))
    gradients = our_gradients(case, plain, given) if case.differentiable else ()
    tol = 4 * tolerance(case, name, arrays)
    for layout in LAYOUTS:
        raws = [laid_out(a, layout) for a in arrays]
        inputs = [p if r is None else wrap(r, p.requires_grad) for r, p in zip(raws, plain)]
        compare(case.fn(ours, *inputs), expected, tol, f"{layout} result")
        if case.differentiable:
            compare_gradients(our_gradients(case, inputs, given), gradients, tol, f"{layout} gradient")


def expandable(spec):
    """Whether its rows may all be equal: no distinct values, no matrices that would become singular."""
    return bool(spec.shape) and not getattr(spec, "distinct", False) and not isinstance(spec, S)


@pytest.mark.parametrize("case", lines(lambda c: c.layouts and any(map(expandable, c.inputs))))
def test_expanded_inputs(case, rng):
    name = case.dtypes()[0]
    arrays = case.draw(rng, name)
    backend = backend_for(resolve())
    for i, spec in enumerate(case.inputs):
        if not expandable(spec) or arrays[i].size == 0:
            continue
        given_arrays = list(arrays)
        given_arrays[i] = np.broadcast_to(arrays[i][:1], arrays[i].shape)
        plain = our_inputs(case, given_arrays)
        inputs = list(plain)
        thin = backend.from_host(np.ascontiguousarray(arrays[i][:1]))
        inputs[i] = wrap(backend.xp.broadcast_to(thin, arrays[i].shape), plain[i].requires_grad)
        tol = 4 * tolerance(case, name, arrays)
        out = case.fn(ours, *plain)
        compare(case.fn(ours, *inputs), out, tol, f"result of expanded input {i}")
        if case.differentiable:
            given = cotangents(rng, differentiable(out))
            compare_gradients(our_gradients(case, inputs, given), our_gradients(case, plain, given), tol)


# derivatives against differences

def small(case):
    return all(np.prod(s.shape, dtype=int) <= 64 for s in case.inputs)


@in_each_dtype(True, lambda c: c.differentiable and c.gradcheck, lambda name: name in ("float64", "complex128"))
def test_derivatives_agree_with_differences(case, name, rng):
    inputs = our_inputs(case, case.draw(rng, name))

    def f(*args):
        return tuple(o for o in leaves(case.fn(ours, *args)) if is_tensor(o) and dtypes.is_float(o._array.dtype))

    # central differences of float64 with steps of 1e-6 are good to about 1e-9 * |f''' | + 1e-10 * |f| / 1e-6
    assert gradcheck(f, inputs, fast_mode=not small(case), check_grad_dtypes=True)
    if case.order2:
        # the whole second-order Jacobian of 12 entries costs 50 ms; one random direction 1 ms: full in one dtype
        assert gradgradcheck(f, inputs, fast_mode=name != "float64" or not small(case))


# shapes of elementwise lines

@functools.cache
def pointwise(case):
    """Whether a line uses elementwise operators only: then every shape must do."""
    try:
        applied = operators_of(case)
    except Exception:  # its own tests fail; here the question has no answer
        return False
    floats = [s for s in case.inputs if not isinstance(s, (S,))]
    return bool(applied) and all(issubclass(c, Pointwise) for c in applied) and len(floats) == len(case.inputs)


SHAPES = {  # one row per variant: the shapes of the first, second, third input
    "0-d": [(), (), (), ()],
    "size-1": [(1,), (1, 1), (1,), (1,)],
    "empty": [(0, 3), (3,), (0, 1), ()],
    "mixed ranks": [(), (2, 3), (3,), ()],
    "broadcast": [(2, 1, 3), (4, 1), (1, 4, 1), (1,)],
}


@pytest.mark.parametrize("case", lines(lambda c: c.shapes and pointwise(c)))
def test_elementwise_in_every_shape(case, rng, torch):
    name = case.dtypes()[0]
    for label, shapes in SHAPES.items():
        arrays = case.draw(rng, name, shapes[: len(case.inputs)])
        inputs, theirs = our_inputs(case, arrays), their_inputs(torch, case, arrays)
        out, expected = case.fn(ours, *inputs), case.torch_fn(torch, *theirs)
        compare(out, expected, tolerance(case, name, arrays), f"{label} result")
        if case.differentiable:
            given = cotangents(rng, differentiable(expected))
            compare_gradients(our_gradients(case, inputs, given, out), their_gradients(torch, case, theirs, given),
                              4 * tolerance(case, name, arrays), f"{label} gradient")


# NaN and infinity

@pytest.mark.parametrize("case", lines(lambda c: c.nonfinite and c.real and any(s.grad and s.shape for s in c.inputs)))
def test_nan_and_infinity_propagate_as_in_pytorch(case, rng, torch):
    arrays = case.draw(rng, "float32")
    for values in ([np.nan], [np.inf, -np.inf], [np.nan, np.inf, -np.inf, 0.0, -0.0]):
        special = [a.copy() for a in arrays]
        for a, wanted in zip(special, case.wanting(arrays)):
            if wanted and a.size:
                at = rng.choice(a.size, min(len(values), a.size), replace=False)
                a.reshape(-1)[at] = values[: len(at)]
        # NumPy's warning for inf - inf and inf * 0 may come: silencing it would cost every addition 0.8 us beside 1.0
        with np.errstate(invalid="ignore", over="ignore"):
            actual = case.fn(ours, *[tensor(a) for a in special])
        expected = case.torch_fn(torch, *[torch_tensor(torch, a) for a in special])
        compare(actual, expected, tolerance(case, "float32", arrays), f"result for {values}")


# changes in place of what a rule may have kept

def triple(t):
    REGISTRY["Mul"].inplace(t, 3)


def refused(e):
    return "modified by an inplace operation" in str(e)


@pytest.mark.parametrize("case", lines(lambda c: c.differentiable and c.inplace_guard))
def test_a_change_of_what_was_saved_is_noticed(case, rng):
    arrays = case.draw(rng, case.dtypes()[0])
    inputs = our_inputs(case, arrays)
    given = cotangents(rng, differentiable(case.fn(ours, *inputs)))
    right = our_gradients(case, inputs, given)
    tol = 4 * tolerance(case, case.dtypes()[0], arrays)
    wanting = [i for i, x in enumerate(inputs) if x.requires_grad]
    for k in wanting:  # an input changed after the forward: an error, or the gradient of the old value
        between = [ops.mul(x, 1) if i in wanting else x for i, x in enumerate(inputs)]
        outs = case.fn(ours, *between)
        if any(o._is_view() or o is between[k] for o in differentiable(outs)):
            continue  # the outputs change with it
        triple(between[k])
        try:
            found = our_gradients(case, inputs, given, outs)
        except RuntimeError as e:
            assert refused(e), e
        else:
            compare_gradients(found, right, tol, f"after a change of input {k}, gradient")
    outs = case.fn(ours, *[ops.mul(x, 1) if i in wanting else x for i, x in enumerate(inputs)])
    for o in differentiable(outs)[:1]:  # an output changed: an error, or three times the gradient
        if any(s == 0 and n > 1 for s, n in zip(o._array.strides, o.shape)):
            continue
        triple(o)
        given = [3 * g if i == 0 else 0 * g for i, g in enumerate(given)]
        expected = our_gradients(case, inputs, given)
        given = [g / 3 for g in given]
        try:
            found = our_gradients(case, inputs, given, outs)
        except RuntimeError as e:
            assert refused(e), e
        else:
            compare_gradients(found, expected, tol, "after a change of output 0, gradient")


# devices

def pytest_generate_tests(metafunc):
    if "elsewhere" in metafunc.fixturenames:  # on the CPU there is nothing to compare the CPU with
        metafunc.parametrize("elsewhere", lines() if metafunc.config.getoption("--device") != "cpu" else [])


def test_device_agrees_with_the_cpu(elsewhere, rng, device):
    case = elsewhere
    for name in [n for n in case.dtypes() if n in ("float32", "bfloat16", "complex64", "int64")]:
        arrays = case.draw(rng, name)
        inputs = our_inputs(case, arrays)
        out = case.fn(ours, *inputs)
        for o in leaves(out):
            assert not is_tensor(o) or o.device == device, f"a result on {o.device}"
        cpu = device_class("cpu")
        with cpu:
            host_inputs = our_inputs(case, arrays)
            expected = case.fn(ours, *host_inputs)
        compare(out, expected, tolerance(case, name, arrays), f"{name} result")
        if case.differentiable and dtypes.from_any(name).category >= dtypes.FLOAT:
            given = cotangents(rng, differentiable(expected))
            found = our_gradients(case, inputs, given, out)
            with cpu:
                wanted = our_gradients(case, host_inputs, given, expected)
            compare_gradients(found, wanted, 4 * tolerance(case, name, arrays), f"{name} gradient")
