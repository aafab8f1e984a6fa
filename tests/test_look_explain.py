"""look.explain by the names of public functions: what they apply, as their graphs show, and what is left alone."""
from __future__ import annotations

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd import modes
from tinytorch_gpu.autograd.node import REGISTRY
from tinytorch_gpu.look.trace.public import applied, public_names
from tinytorch_gpu.nn import functional as F


def arrays(*shapes):
    return [tt.rand(*shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name, run, shapes", [
    ("matmul", tt.matmul, [(3, 4), (4, 5)]), ("bmm", tt.bmm, [(2, 3, 4), (2, 4, 5)]), ("mv", tt.mv, [(3, 4), (4,)]),
    ("conv2d", F.conv2d, [(1, 2, 5, 5), (3, 2, 3, 3)]), ("max_pool2d", lambda x: F.max_pool2d(x, 2), [(1, 2, 4, 4)]),
    ("getitem", lambda x: x[0], [(3, 4)]), ("__getitem__", lambda x: x[1], [(3, 4)]), ("square", tt.square, [(3,)]),
    ("einsum", lambda a, b: tt.einsum("ij,jk->ik", a, b), [(3, 4), (4, 5)]), ("clip", lambda x: x.clip(0, 1), [(3,)]),
    ("concatenate", lambda a, b: tt.concatenate([a, b]), [(3,), (4,)]), ("rsub", lambda x: x.__rsub__(2), [(3,)]),
])
def test_a_public_name_is_explained_by_what_it_applies(name, run, shapes):
    nodes = look.graph(run(*arrays(*shapes))).data["nodes"]
    (operator,) = {n["name"] for n in nodes if n["kind"] == "operator"} - {"Reshape", "Permute"}  # views
    found = look.explain(name).data
    assert found["name"] == operator and found["doc"] and found["gradients"]
    called, applies = found["note"].split(";")[0].split(" applies ")
    assert REGISTRY[applies].__doc__.startswith(found["doc"][:9]) and called.split("(")[0].strip("_") == name.strip("_")


def test_functions_and_modules_are_found_by_their_names():
    for what in (F.conv2d, nn.Conv2d, "Conv2d", "CONV2D", tt.Tensor.__getitem__):
        assert "applies" in look.explain(what).data["note"]
    assert "applies" not in look.explain("relu").data["note"]  # an operator's own name comes first


def test_what_applies_several_or_nothing_is_said():
    with pytest.raises(ValueError, match=r"addcmul\(.*\) applies Mul, Add: explain one of them"):
        look.explain("addcmul")
    with pytest.raises(ValueError, match="allclose is no operator, and what it applies was not found"):
        look.explain("allclose")
    for wrong, near in (("matmull", "matmul"), ("conv2", "conv2d"), ("softmaxx", "Softmax"), ("einsun", "einsum")):
        with pytest.raises(ValueError, match=f"called '{wrong}'; near to it (is|are) .*{near}") as error:
            look.explain(wrong)
        assert "__" not in str(error.value)
    with pytest.raises(ValueError, match="no operator or function is called 'xyzzy';"):
        look.explain("xyzzy")


def test_nothing_is_left_behind_by_the_calls():
    """Of all names: the random numbers, the modes and how tensors print are as before."""
    x = tt.rand(3)
    before = repr(x), tt.get_default_dtype(), tt.is_grad_enabled(), modes.state.autocast
    tt.manual_seed(5)
    expected = tt.rand(4).tolist()
    tt.manual_seed(5)
    for k in public_names():
        applied(k)
    assert tt.rand(4).tolist() == expected
    assert before == (repr(x), tt.get_default_dtype(), tt.is_grad_enabled(), modes.state.autocast)
    assert applied("dropout2d")[1] == [REGISTRY["Dropout"]]
    with tt.no_grad(), tt.amp.autocast(x.device.type, dtype=tt.bfloat16):
        assert applied("bmm")[1] == [REGISTRY["Gemm"]]
