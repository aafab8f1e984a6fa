"""Grad mode, inference mode, anomaly mode: contexts, decorators, threads, messages."""
from __future__ import annotations

import threading

import numpy as np
import pytest
from case import host, ours, tensor

from tinytorch_gpu import ops
from tinytorch_gpu.autograd.modes import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_anomaly_enabled,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_detect_anomaly,
    set_grad_enabled,
)
from tinytorch_gpu.autograd.operator import REGISTRY


def leaf():
    return tensor(np.array([1.0, 2.0]), True)


def records():
    return ops.tanh(leaf()).requires_grad


# grad mode

def test_contexts_nest_and_restore():
    assert records()
    with no_grad():
        assert not records() and not is_grad_enabled()
        with enable_grad():
            assert records()
            with set_grad_enabled(False):
                assert not records()
            assert records()
        assert not records()
    assert records()
    with pytest.raises(ZeroDivisionError):
        with no_grad():
            raise ZeroDivisionError
    assert records()


def test_one_context_object_can_be_entered_again():
    mode = no_grad()
    for _ in range(2):
        with mode:
            assert not records()
        assert records()


def test_set_grad_enabled_as_a_function():
    try:
        set_grad_enabled(False)
        assert not records()
    finally:
        set_grad_enabled(True)
    assert records()


@pytest.mark.parametrize("decorate", [
    lambda f: no_grad()(f), no_grad, lambda f: set_grad_enabled(False)(f), lambda f: inference_mode()(f),
    inference_mode,
])
def test_decorators_hold_inside_the_function_only(decorate):
    @decorate
    def f(a, *, b):
        """Words."""
        return records(), a, b

    assert is_grad_enabled() and not is_inference_mode_enabled()
    assert f(1, b=2) == (False, 1, 2) and f.__doc__ == "Words." and f.__name__ == "f"
    assert records()


def test_decorated_functions_recurse():
    @no_grad()
    def f(n):
        assert not records()
        if n:
            with enable_grad():
                f(n - 1)
                assert records()
        assert not records()

    f(3)
    assert records()


def test_decorated_generators_hold_inside_and_not_in_the_consumer():
    closed = []

    @no_grad()
    def g():
        try:
            got = yield records()
            got = yield (records(), got)
            try:
                yield records()
            except KeyError:
                yield "caught"
            return "end"
        finally:
            closed.append(records())

    it = g()
    assert next(it) is False and records()
    assert it.send(5) == (False, 5) and records()
    assert next(it) is False
    assert it.throw(KeyError("k")) == "caught" and records()
    with pytest.raises(StopIteration) as stop:
        next(it)
    assert stop.value.value == "end" and closed == [False]
    other = g()
    next(other)
    other.close()
    assert len(closed) == 2


def test_a_class_cannot_be_decorated_by_mistake():
    with pytest.raises(TypeError, match="not the class"):
        no_grad()(type("Model", (), {}))


def test_leaves_made_in_no_grad_may_require_grad():
    with no_grad():
        x = leaf()
        y = ops.mul(x, 2)
    assert x.requires_grad and not y.requires_grad and y.is_leaf
    ops.sum(ops.mul(x, x)).backward()
    assert x.grad is not None


def test_backward_inside_no_grad_works():
    x = leaf()
    y = ops.sum(ops.mul(x, x))
    with no_grad():
        y.backward()
    assert (host(x.grad) == [2, 4]).all() and not x.grad.requires_grad


def test_grad_mode_belongs_to_the_thread():
    seen = {}
    inside, done = threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        seen["other"] = (is_grad_enabled(), is_inference_mode_enabled())
        with inference_mode():
            done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with no_grad():
        inside.set()
        assert done.wait(10)
        seen["here"] = (is_grad_enabled(), is_inference_mode_enabled())
    thread.join(10)
    assert seen == {"other": (True, False), "here": (False, False)}


def test_threads_may_run_backward_at_the_same_time():
    """Separate graphs over separate leaves, in eight threads."""
    wrong = []

    def work(k):
        for _ in range(50):
            x = tensor(np.full(8, float(k)), True)
            ops.sum(ops.mul(ops.mul(x, x), x)).backward()
            if not (host(x.grad) == 3.0 * k * k).all():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong


# inference mode

def test_inference_tensors_never_join_a_graph(torch):
    errors = {}
    for package, mode, t, make in (
        ("ours", inference_mode, ours, tensor),
        ("torch", torch.inference_mode, torch, lambda a, r=False: torch.tensor(a, requires_grad=r)),
    ):
        with mode():
            made = make(np.array([1.0, 2.0]))
            assert made.is_inference() and not t.mul(made, 2).requires_grad
        w = make(np.array([1.0, 2.0]), True)
        assert not w.is_inference()
        found = []
        for program in (
            lambda: t.mul(w, made),  # saved for backward
            lambda: made.requires_grad_(),
            lambda: made._version,
            lambda: made.add_(1) if hasattr(made, "add_") else None,
            lambda: t.mul(w, t.clone(made)),  # a clone is an ordinary tensor
            lambda: t.add(w, made),  # nothing is saved
        ):
            try:
                program()
                found.append(None)
            except (RuntimeError, ValueError) as e:
                found.append(type(e))
        errors[package] = found
    assert errors["ours"] == errors["torch"]


def test_inference_mode_off_inside_on():
    with inference_mode():
        assert is_inference_mode_enabled() and not is_grad_enabled()
        with inference_mode(False):
            assert not is_inference_mode_enabled()
            assert not leaf().is_inference()
        assert is_inference_mode_enabled()
    assert is_grad_enabled()


def test_a_view_of_an_ordinary_tensor_in_inference_mode():
    x = leaf()
    with inference_mode():
        v = ops.expand(x, 3, 2)
    assert not v.requires_grad


# anomaly mode

class TestAnomaly:
    def nan_in_backward(self):
        x = tensor(np.array([0.0, 1.0]), True)
        y = ours.sqrt(x)
        return x, ops.sum(ops.mul(y, tensor(np.array([0.0, 1.0]))))  # 0 * inf in sqrt's gradient

    def test_names_operator_shapes_and_the_users_line(self):
        with np.errstate(all="ignore"), detect_anomaly():
            assert is_anomaly_enabled()
            x, loss = self.nan_in_backward()
            with pytest.raises(RuntimeError) as e:
                loss.backward()
        assert not is_anomaly_enabled()
        text = str(e.value)
        assert "[Sqrt] function returned nan values in its 0th output" in text
        assert "float64[2]" in text and "test_modes.py" in text and "y = ours.sqrt(x)" in text
        assert "Traceback of the forward call" in text

    def test_says_so_when_the_forward_ran_before(self):
        with np.errstate(all="ignore"):
            x, loss = self.nan_in_backward()
            with detect_anomaly(), pytest.raises(RuntimeError, match="forward ran before anomaly mode was on"):
                loss.backward()

    def test_without_check_nan_only_errors_are_explained(self):
        with np.errstate(all="ignore"), detect_anomaly(check_nan=False):
            x, loss = self.nan_in_backward()
            loss.backward()
        assert np.isnan(host(x.grad)).any()

    def test_off_by_default_and_as_a_function(self):
        with np.errstate(all="ignore"):
            x, loss = self.nan_in_backward()
            loss.backward()
            try:
                set_detect_anomaly(True)
                x, loss = self.nan_in_backward()
                with pytest.raises(RuntimeError, match="nan values"):
                    loss.backward()
            finally:
                set_detect_anomaly(False)
        with set_detect_anomaly(True):
            assert is_anomaly_enabled()
        assert not is_anomaly_enabled()

    def test_a_change_in_place_is_located(self):
        with detect_anomaly():
            x = leaf()
            y = ops.tanh(x)
            REGISTRY["Mul"].inplace(y, 2)
            with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*test_modes\.py"):
                ops.sum(y).backward()

    def test_finite_programs_run_through(self):
        with detect_anomaly():
            x = leaf()
            ops.sum(ops.mul(ops.tanh(x), x)).backward()
        assert np.isfinite(host(x.grad)).all()
