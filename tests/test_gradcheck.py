"""gradcheck accepts right rules and refuses wrong ones: values, complex convention, undefined gradients, messages."""
from __future__ import annotations

import warnings

import numpy as np
import pytest
from case import tensor

from tinytorch_gpu import ops
from tinytorch_gpu.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from tinytorch_gpu.autograd.operator import Operator


class _Square(Operator):
    """x * x with a rule that `wrong` spoils."""

    def forward(node, x, wrong=None):
        node.save(x)
        node.wrong = wrong
        return x * x

    def backward(node, grad):
        (x,) = node.saved
        factor = 2.02 if node.wrong == "scale" else 2
        right = ops.mul(grad, ops.mul(x if node.wrong == "conj" else ops.conj(x), factor))
        if node.wrong == "constant":
            return ops.mul(ops.clone(x), 2)
        if node.wrong == "random":
            return ops.add(right, float(np.random.default_rng().random()) * 1e-9)
        if node.wrong == "second":  # right in value, but its own derivative is not: a constant in place of x
            return ops.mul(grad, tensor(2 * (x if isinstance(x, np.ndarray) else x._array)))
        return right


class _Pair(Operator):
    """(x, 2 x), whose rule forgets the second gradient or cannot do without the first."""

    materialize = False

    def forward(node, x, wrong=None):
        node.wrong = wrong
        return x * 1, x * 2

    def backward(node, first, second):
        if node.wrong == "needs both":
            if first is None or second is None:
                return None
        if first is None:
            return ops.mul(second, 2)
        return first if second is None else ops.add(first, ops.mul(second, 2))


def draw(rng, *shape, complex=False):
    values = rng.uniform(-2, 2, shape)
    return tensor(values + 1j * rng.uniform(-2, 2, shape) if complex else values, True)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("complex", [False, True])
def test_right_rules_pass(rng, fast, complex):
    x, y = draw(rng, 2, 3, complex=complex), draw(rng, 3, complex=complex)
    assert gradcheck(lambda a, b: ops.mul(ops.tanh(a), b), (x, y), fast_mode=fast)
    assert gradgradcheck(lambda a, b: ops.mul(ops.tanh(a), b), (x, y), fast_mode=fast)
    assert gradcheck(_Square.apply, x, fast_mode=fast, check_grad_dtypes=True)
    assert gradcheck(_Pair.apply, (x,), fast_mode=fast)


def test_complex_to_real_and_back(rng):
    z, x = draw(rng, 3, complex=True), draw(rng, 3)
    assert gradcheck(lambda a: ops.cast(ops.mul(a, ops.conj(a)), np.dtype(np.float64)), (z,))
    assert gradcheck(lambda a, b: ops.mul(a, b), (z, x))


@pytest.mark.parametrize("fast", [False, True])
def test_a_wrong_factor_is_refused_with_the_entry_and_the_operator(rng, fast):
    x = draw(rng, 2, 3)
    with pytest.raises(GradcheckError, match="numerical .*analytical .*_Square") as e:
        gradcheck(lambda a: _Square.apply(a, wrong="scale"), (x,), fast_mode=fast)
    if not fast:
        assert "entry (input 0, output 0): input index (0, 0), output index (0, 0)" in str(e.value)
    assert not gradcheck(lambda a: _Square.apply(a, wrong="scale"), (x,), fast_mode=fast, raise_exception=False)


@pytest.mark.parametrize("fast", [False, True])
def test_a_forgotten_conjugate_is_refused(rng, fast):
    assert gradcheck(lambda a: _Square.apply(a, wrong="conj"), (draw(rng, 3),), fast_mode=fast)  # real: the same
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(lambda a: _Square.apply(a, wrong="conj"), (draw(rng, 3, complex=True),), fast_mode=fast)


def test_a_rule_that_ignores_its_gradient_is_refused(rng):
    with pytest.raises(GradcheckError):
        gradcheck(lambda a: _Square.apply(a, wrong="constant"), (draw(rng, 2),))
    with pytest.raises(GradcheckError, match="not multiplied by grad_output"):
        gradcheck(lambda a: _Square.apply(a, wrong="constant"), (draw(rng),))  # one element: the Jacobian agrees


def test_nondeterminism_needs_nondet_tol(rng):
    def f(a):
        return _Square.apply(a, wrong="random")

    with pytest.raises(GradcheckError, match="not reentrant.*_Square"):
        gradcheck(f, (draw(rng, 2),))
    with pytest.raises(GradcheckError, match="not multiplied"):
        gradcheck(f, (draw(rng, 2),), nondet_tol=1e-6)


def test_a_wrong_second_derivative_is_refused(rng, device):
    if device.type != "cpu":
        pytest.skip("the spoilt rule is written for NumPy arrays")
    x = draw(rng, 3)
    assert gradcheck(lambda a: _Square.apply(a), (x,)) and gradgradcheck(lambda a: _Square.apply(a), (x,))
    with pytest.raises(GradcheckError):
        gradgradcheck(lambda a: ops.mul(_Square.apply(a, wrong="second"), 1), (x,))


def test_undefined_gradients(rng):
    x = draw(rng, 2)
    with pytest.raises(GradcheckError, match="analytical 0"):
        gradcheck(lambda a: _Pair.apply(a, wrong="needs both"), (x,))
    assert gradcheck(lambda a: _Pair.apply(a, wrong="needs both"), (x,), check_undefined_grad=False)


def test_functions_that_close_over_their_inputs(rng):
    x = draw(rng, 3)
    assert gradcheck(lambda *_: ops.tanh(x), (x,))


def test_a_function_that_hides_its_dependence_is_refused(rng):
    with pytest.raises(GradcheckError, match="expected to be zero"):
        gradcheck(lambda a: ops.tanh(a.detach()), (draw(rng, 2),))
    x = draw(rng, 2)
    assert gradcheck(lambda a: ops.tanh(tensor(np.ones(2))), (x,))


def test_what_is_not_there_raises(rng):
    x = draw(rng, 2)
    for option in ("check_batched_grad", "check_forward_ad", "check_batched_forward_grad", "masked"):
        with pytest.raises(NotImplementedError):
            gradcheck(ops.tanh, (x,), **{option: True})
    with pytest.raises(ValueError):
        gradcheck(ops.tanh, (x,), check_backward_ad=False)
    with pytest.raises(ValueError, match="at least one input"):
        gradcheck(ops.tanh, (x.detach(),))
    with pytest.raises(ValueError, match="stride 0"):
        gradcheck(ops.tanh, (ops.expand(draw(rng, 1), 3),))


def test_single_precision_is_warned_about(rng):
    x = tensor(rng.uniform(-1, 1, 2).astype(np.float32), True)
    with pytest.warns(UserWarning, match="not double precision"):
        gradcheck(ops.tanh, (x,), eps=1e-2, atol=1e-2, rtol=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradcheck(ops.tanh, (draw(rng, 2),))


def test_inputs_are_left_as_they_were(rng):
    x = draw(rng, 2, 2)
    before = x._array.copy()
    gradcheck(ops.tanh, (x,))
    gradgradcheck(ops.tanh, (x,))
    assert bool((x._array == before).all()) and x.grad is None and x._version == 0


def test_given_and_non_contiguous_grad_outputs(rng):
    x, v = draw(rng, 2, 3), draw(rng, 2, 3)
    assert gradgradcheck(ops.tanh, (x,), (v,))
    assert gradgradcheck(ops.tanh, (x,), gen_non_contig_grad_outputs=True)


@pytest.mark.parametrize("wrong", [None, "scale", "conj"])
def test_the_verdict_is_pytorchs(rng, torch, wrong):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * (x if wrong == "conj" else x.conj()) * (2.02 if wrong == "scale" else 2)

    values = rng.uniform(-2, 2, 3) + 1j * rng.uniform(-2, 2, 3)
    for a in (values, values.real.copy()):
        theirs = torch.autograd.gradcheck(Square.apply, (torch.from_numpy(a).requires_grad_(),), raise_exception=False)
        mine = gradcheck(lambda t: _Square.apply(t, wrong=wrong), (tensor(a, True),), raise_exception=False)
        assert mine == theirs
