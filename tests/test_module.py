"""Module: registration, traversal, hooks, state, conversions, text, copies; beside torch.nn.Module where it answers."""
from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import nn
from tinytorch_gpu.backend.device import backend_of


def host(tensor):
    return np.array(backend_of(tensor._array).to_host(tensor._array))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2, bias=False)
        self.register_buffer("scale", tt.ones(2))
        self.register_buffer("scratch", tt.zeros(1), persistent=False)

    def forward(self, x):
        x = self.norm(self.first(x))
        for block in self.blocks:
            x = tt.relu(block(x))
        return self.head(x) * self.scale


def torch_net(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
            self.head = torch.nn.Linear(4, 2, bias=False)
            self.register_buffer("scale", torch.ones(2))
            self.register_buffer("scratch", torch.zeros(1), persistent=False)

        def forward(self, x):
            x = self.norm(self.first(x))
            for block in self.blocks:
                x = torch.relu(block(x))
            return self.head(x) * self.scale

    return Net()


def test_names_and_text_are_pytorchs(torch):
    ours, theirs = Net(), torch_net(torch)
    assert repr(ours) == repr(theirs)
    for what in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, what)()] == [n for n, _ in getattr(theirs, what)()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


def test_state_moves_to_pytorch_and_back(torch, rng):
    ours, theirs = Net(), torch_net(torch)
    theirs.load_state_dict({k: torch.tensor(host(v)) for k, v in ours.state_dict().items()})
    x = rng.standard_normal((6, 3)).astype(np.float32)
    out, ref = ours(tt.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(host(out.detach()), ref.detach().numpy(), rtol=1e-4, atol=1e-5)  # float32, 4 products
    out.sum().backward()
    ref.sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(host(p.grad), q.grad.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(host(ours.norm.running_var), theirs.norm.running_var.numpy(), rtol=1e-5)
    assert int(ours.norm.num_batches_tracked) == 1


def test_setattr_registers_and_moves():
    m = nn.Module()
    m.a = 1
    m.a = nn.Parameter(tt.ones(2))
    assert list(m._parameters) == ["a"] and "a" not in m.__dict__
    m.a = None
    assert m.a is None and list(m.parameters()) == []
    m.b = nn.Buffer(tt.ones(1), persistent=False)
    assert list(m._buffers) == ["b"] and list(m.state_dict()) == []
    m.b = tt.zeros(1)
    assert list(m._buffers) == ["b"] and "b" in m._non_persistent_buffers_set
    m.c = nn.Linear(1, 1)
    m.c = nn.Parameter(tt.ones(1))
    assert list(m._modules) == [] and list(m._parameters) == ["a", "c"]
    m.d = tt.ones(2)  # a plain tensor is an attribute like any other
    assert "d" in m.__dict__
    del m.c, m.b
    assert not hasattr(m, "c") and not hasattr(m, "b")
    assert "a" in dir(m)


@pytest.mark.parametrize(("error", "message", "call"), [
    (TypeError, "cannot assign 'int' as parameter 'p'", lambda m: setattr(m, "p", 3)),
    (TypeError, "cannot assign 'Tensor' as parameter 'p'", lambda m: setattr(m, "p", tt.ones(1))),
    (TypeError, "cannot assign 'int' as child module 'm'", lambda m: setattr(m, "m", 3)),
    (TypeError, "cannot assign 'int' as buffer 'b'", lambda m: setattr(m, "b", 3)),
    (AttributeError, "'Holder' object has no attribute 'missing'", lambda m: m.missing),
    (AttributeError, "has no attribute", lambda m: delattr(m, "missing")),
    (KeyError, "name can.*t contain", lambda m: m.register_parameter("a.b", None)),
    (KeyError, "name can.*t be empty", lambda m: m.register_buffer("", None)),
    (KeyError, "attribute 'forward' already exists", lambda m: m.add_module("forward", None)),
    (TypeError, "parameter name should be a string", lambda m: m.register_parameter(1, None)),
    (TypeError, "cannot assign 'Tensor' object to parameter", lambda m: m.register_parameter("x", tt.ones(1))),
    (ValueError, "non-leaf", lambda m: m.register_parameter("x", _made(m.p))),
    (TypeError, "cannot assign 'int' object to buffer", lambda m: m.register_buffer("x", 1)),
    (TypeError, "is not a Module subclass", lambda m: m.add_module("x", 1)),
    (NotImplementedError, "missing the required \"forward\"", lambda m: m(1)),
    (AttributeError, "has no attribute `z`", lambda m: m.get_submodule("m.z")),
    (AttributeError, "is not an nn.Module", lambda m: m.get_submodule("p")),
    (AttributeError, "is not an nn.Parameter", lambda m: m.get_parameter("b")),
    (AttributeError, "is not a buffer", lambda m: m.get_buffer("p")),
    (ValueError, "training mode is expected to be boolean", lambda m: m.train(1)),
    (TypeError, "only accepts floating point or complex", lambda m: m.to(tt.int32)),
    (TypeError, "Expected state_dict to be dict-like", lambda m: m.load_state_dict([])),
])
def test_errors(error, message, call):
    class Holder(nn.Module):
        pass

    m = Holder()
    m.p, m.b, m.m = nn.Parameter(tt.ones(1)), nn.Buffer(tt.ones(1)), nn.Linear(1, 1)
    with pytest.raises(error, match=message):
        call(m)


def _made(p):
    made = nn.Parameter(tt.ones(1))
    made._node = (p * 2).grad_fn
    return made


def test_assignment_before_init():
    class Early(nn.Module):
        def __init__(self):
            self.p = nn.Parameter(tt.ones(1))

    with pytest.raises(AttributeError, match="cannot assign parameters before Module.__init__"):
        Early()


def test_shared_parameters_are_counted_once():
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    m[1].weight = m[0].weight
    assert len(list(m.parameters())) == 3
    assert len(list(m.named_parameters(remove_duplicate=False))) == 4
    copied = copy.deepcopy(m)
    assert copied[1].weight is copied[0].weight and copied[0].weight is not m[0].weight
    again = pickle.loads(pickle.dumps(m))
    assert again[1].weight is again[0].weight
    np.testing.assert_array_equal(host(again[0].weight), host(m[0].weight))
    assert isinstance(again[0].weight, nn.Parameter) and again[0].weight.requires_grad
    same = nn.Linear(2, 2)
    twice = nn.Sequential(same, same)
    assert len(list(twice.children())) == 1
    assert len(list(twice.named_modules())) == 2 and len(list(twice.named_modules(remove_duplicate=False))) == 3


def test_get_and_set_by_dotted_name():
    net = Net()
    assert net.get_submodule("blocks.1") is net.blocks[1] and net.get_submodule("") is net
    assert net.get_parameter("blocks.0.weight") is net.blocks[0].weight
    assert net.get_buffer("norm.running_mean") is net.norm.running_mean
    new = nn.Linear(4, 4)
    net.set_submodule("blocks.1", new)
    assert net.blocks[1] is new
    with pytest.raises(AttributeError, match="has no attribute"):
        net.set_submodule("blocks.7", new, strict=True)


def test_load_state_dict_lists_everything(torch):
    ours, theirs = Net(), torch_net(torch)
    saved = ours.state_dict()
    saved.pop("first.bias")
    saved["head.weight"] = tt.ones(3, 3)
    saved["other.weight"] = tt.ones(1)
    with pytest.raises(RuntimeError) as error:
        ours.load_state_dict(saved)
    with pytest.raises(RuntimeError) as reference:
        theirs.load_state_dict({k: torch.tensor(host(v)) for k, v in saved.items()})
    assert str(error.value) == "[load_state_dict] " + str(reference.value).replace("torch.", "")
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.load_state_dict(saved, strict=False)
    del saved["head.weight"]
    result = ours.load_state_dict(saved, strict=False)
    assert result.missing_keys == ["first.bias", "head.weight"] and result.unexpected_keys == ["other.weight"]
    assert repr(ours.load_state_dict(ours.state_dict())) == "<All keys matched successfully>"


def test_load_copies_and_assign_replaces():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    held = a.weight
    version = held._version
    a.load_state_dict(b.state_dict())
    assert a.weight is held and held._version > version
    np.testing.assert_array_equal(host(held), host(b.weight))
    a.requires_grad_(False)
    a.load_state_dict(b.state_dict(), assign=True)
    assert a.weight is not held and isinstance(a.weight, nn.Parameter) and not a.weight.requires_grad
    assert a.weight._array is b.weight._array


def test_state_hooks_and_extra_state():
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = 3

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    m, seen = nn.Sequential(Extra()), []
    m.register_state_dict_pre_hook(lambda module, prefix, keep: seen.append(("pre", prefix, keep)))
    m.register_state_dict_post_hook(lambda module, state, prefix, meta: seen.append(("post", meta)))
    saved = m.state_dict(keep_vars=True)
    assert saved == {"0._extra_state": {"count": 3}} and seen == [("pre", "", True), ("post", {"version": 1})]
    m[0].count = 9
    m.register_load_state_dict_pre_hook(lambda module, state, prefix, *rest: seen.append(module is m))
    m.register_load_state_dict_post_hook(lambda module, keys: keys.unexpected_keys.clear())
    m.load_state_dict({**saved, "stray": 1})
    assert m[0].count == 3 and seen[-1] is True
    with pytest.raises(RuntimeError, match="Missing key"):
        m.load_state_dict({})


def test_conversions_keep_identity():
    net = Net()
    net(tt.ones(4, 3)).sum().backward()
    before = {name: id(p) for name, p in net.named_parameters()}
    assert net.double() is net
    assert {name: id(p) for name, p in net.named_parameters()} == before
    assert all(p.dtype is tt.float64 and p.grad.dtype is tt.float64 for p in net.parameters() if p.grad is not None)
    assert net.norm.running_mean.dtype is tt.float64 and net.norm.num_batches_tracked.dtype is tt.int64
    net(tt.ones(4, 3, dtype=tt.float64)).sum().backward()
    assert net.half().first.weight.dtype is tt.float16
    assert net.bfloat16().first.weight.dtype is tt.bfloat16
    assert net.to(tt.float32).first.weight.dtype is tt.float32
    assert net.to(tt.zeros(1, dtype=tt.float64)).first.weight.dtype is tt.float64
    assert net.to("cpu", tt.float32).first.weight.device.type == "cpu"
    assert net.to(device=tt.get_default_device()).first.weight.device == tt.zeros(1).device
    assert net.float().cpu().head.weight.dtype is tt.float32


def test_conversion_while_a_graph_lives():
    m = nn.Linear(2, 2)
    old = m(tt.ones(1, 2)).sum()
    m.double()
    m(tt.ones(1, 2, dtype=tt.float64)).sum().backward()
    assert m.weight.grad.dtype is tt.float64 and old.requires_grad


def test_modes_apply_and_gradients():
    net, seen = Net(), []
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train() is net and all(m.training for m in net.modules())
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen[-1] == "Net" and len(seen) == len(list(net.modules()))
    net(tt.ones(4, 3)).sum().backward()
    kept = net.first.weight.grad._array
    net.zero_grad(set_to_none=False)
    assert net.first.weight.grad._array is kept and not host(net.first.weight.grad).any()
    net.zero_grad()
    assert net.first.weight.grad is None
    net.requires_grad_(False)
    assert not net(tt.ones(4, 3)).requires_grad


def test_forward_hooks(torch):
    def record(lib, place):
        linear, seen = lib.nn.Linear(2, 2), []
        x = place(np.ones((1, 2), np.float32))
        linear.register_forward_pre_hook(lambda m, args: seen.append("pre 1"))
        linear.register_forward_pre_hook(lambda m, args: (args[0] * 2,), prepend=True)
        linear.register_forward_pre_hook(lambda m, args, kwargs: (args, kwargs), with_kwargs=True)
        linear.register_forward_hook(lambda m, args, out: seen.append(tuple(args[0].shape)))
        linear.register_forward_hook(lambda m, args, kwargs, out: out * 0 + len(kwargs), with_kwargs=True)
        handle = linear.register_forward_hook(lambda m, args, out: out + 5)
        seen.append(linear(x).sum().item())
        handle.remove()
        seen.append(linear(x).sum().item())
        return seen

    assert record(tt, tt.tensor) == record(torch, torch.tensor)


def test_hooks_after_an_error(torch):
    def record(lib):
        class Bad(lib.nn.Module):
            def forward(self, x):
                raise ValueError("bad")

        m, seen = Bad(), []
        m.register_forward_hook(lambda m, args, out: seen.append("never"))
        m.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
        with pytest.raises(ValueError, match="bad"):
            m(1)
        return seen

    assert record(tt) == record(torch) == [None]


def backward_seen(lib, place, change):
    m, seen = lib.nn.Linear(2, 3), []
    with (tt if lib is tt else lib).no_grad():
        m.weight.copy_(place(np.arange(6, dtype=np.float32).reshape(3, 2)))
        m.bias.copy_(place(np.zeros(3, np.float32)))
    m.register_full_backward_pre_hook(lambda m, g: seen.append(("pre", g[0].tolist())))
    m.register_full_backward_hook(lambda m, i, o: seen.append((i[0].tolist(), o[0].tolist())))
    if change:
        m.register_full_backward_pre_hook(lambda m, g: (g[0] * 2,))
        m.register_full_backward_hook(lambda m, i, o: (i[0] + 1,))
    x = place(np.ones((1, 2), np.float32))
    x.requires_grad_(True)
    (m(x) * 3).sum().backward()
    return seen, x.grad.tolist(), m.weight.grad.tolist()


@pytest.mark.parametrize("change", [False, True])
def test_full_backward_hooks(torch, change):
    assert backward_seen(tt, tt.tensor, change) == backward_seen(torch, torch.tensor, change)


def test_backward_hooks_with_several_inputs_and_outputs(torch):
    def record(lib, place):
        class Two(lib.nn.Module):
            def forward(self, a, b, n):
                return a * b, n, a + b

        m, seen = Two(), []
        m.register_full_backward_hook(lambda m, i, o: seen.append(
            [None if g is None else g.tolist() for g in (*i, *o)]))
        a, b = (place(np.float32(v)).requires_grad_(True) for v in (2.0, 3.0))
        first, n, last = m(a, b, 7)
        first.backward(retain_graph=True)
        (first * 2 + last).backward()
        assert n == 7
        return seen, a.grad.item()

    assert record(tt, tt.tensor) == record(torch, torch.tensor)


def test_backward_hook_without_input_gradients():
    m, seen = nn.Linear(2, 2), []
    m.register_full_backward_hook(lambda m, i, o: seen.append((i, o[0].shape)))
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        m(tt.ones(1, 2)).sum().backward()
    assert seen == [((None,), (1, 2))]
    m.register_full_backward_hook(lambda m, i, o: (tt.ones(1, 2),))
    with pytest.raises(RuntimeError, match="should always return None"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m(tt.ones(1, 2)).sum().backward()


def test_backward_hooks_see_create_graph():
    m = nn.Linear(2, 1)
    m.register_full_backward_hook(lambda m, i, o: (i[0] * o[0],))
    x = tt.ones(1, 2).requires_grad_(True)
    (g,) = tt.autograd.grad((m(x) ** 2).sum(), x, create_graph=True)
    g.sum().backward()
    assert x.grad is not None and m.weight.grad is not None


def test_hooks_of_all_modules():
    seen = []
    handles = [
        nn.hooks.register_module_forward_pre_hook(lambda m, args: seen.append("pre " + type(m).__name__)),
        nn.hooks.register_module_forward_hook(lambda m, args, out: seen.append("post " + type(m).__name__)),
        nn.hooks.register_module_full_backward_hook(lambda m, i, o: seen.append("back " + type(m).__name__)),
        nn.hooks.register_module_parameter_registration_hook(lambda m, name, p: seen.append(name)),
    ]
    try:
        net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        net(tt.ones(1, 1).requires_grad_(True)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["weight", "bias", "pre Sequential", "pre Linear", "post Linear", "pre ReLU", "post ReLU",
                    "post Sequential", "back ReLU", "back Linear", "back Sequential"]
    net(tt.ones(1, 1))
    assert len(seen) == 11


def test_backward_hooks_leave_no_cycle():
    m = nn.Linear(4, 4)
    m.register_full_backward_hook(lambda m, i, o: None)
    gc.collect()
    gc.disable()
    try:
        x = tt.ones(2, 4).requires_grad_(True)
        out = m(x)
        ref = weakref.ref(out)
        out.sum().backward()
        del out
        assert ref() is None
    finally:
        gc.enable()


# containers

CONTAINERS = [
    lambda nn: nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)),
    lambda nn: nn.Sequential({"a": nn.Linear(1, 2), "b": nn.Tanh()}) if nn.__name__.startswith("tiny") else
    nn.Sequential(__import__("collections").OrderedDict(a=nn.Linear(1, 2), b=nn.Tanh())),
    lambda nn: nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Tanh())[1:],
    lambda nn: nn.ModuleList(),
    lambda nn: nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU(), nn.Sequential(nn.ReLU(), nn.ReLU())]),
    lambda nn: nn.ModuleDict({"x": nn.Linear(1, 1), "y": nn.ModuleList([nn.ReLU()])}),
]


@pytest.mark.parametrize("n", range(len(CONTAINERS)))
def test_container_text(torch, n):
    assert repr(CONTAINERS[n](nn)) == repr(CONTAINERS[n](torch.nn))


def edit(nn):
    a, b, c, d = nn.Linear(1, 1), nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    out = []
    for make in (lambda: nn.Sequential(a, b), lambda: nn.ModuleList([a, b])):
        m = make()
        m.append(c)
        m.insert(1, d)
        m[0] = c
        out.append([(name, type(x).__name__) for name, x in m.named_children()])
        del m[1]
        out.append([type(x).__name__ for x in m])
        out.append(type(m.pop(-1)).__name__)
        m += make()
        out += [len(m), type(m[-1]).__name__, [type(x).__name__ for x in m[:2]]]
        with pytest.raises(IndexError):
            m[9]
    table = nn.ModuleDict([("p", a), ("q", b)])
    table["r"] = c
    out += [list(table), len(table), "p" in table, type(table.pop("q")).__name__, list(table.keys())]
    del table["p"]
    out.append([k for k, _ in table.items()])
    table.clear()
    out.append(len(table))
    return out


def test_containers_edit_like_pytorchs(torch):
    assert edit(nn) == edit(torch.nn)


def test_parameter_containers():
    values = nn.ParameterList([tt.ones(2, 3), nn.Parameter(tt.zeros(1)), 5])
    assert [n for n, _ in values.named_parameters()] == ["0", "1"] and values[-1] == 5 and len(values) == 3
    assert repr(values) == ("ParameterList(\n    (0): Parameter containing: [tinytorch_gpu.float32 of size 2x3]\n"
                            "    (1): Parameter containing: [tinytorch_gpu.float32 of size 1]\n"
                            "    (2): Object of type: int\n)").replace(
        "float32 of size 2x3]", f"float32 of size 2x3{_where()}]").replace(
        "float32 of size 1]", f"float32 of size 1{_where()}]")
    values += [tt.ones(1)]
    assert len(values[1:]) == 3 and [type(v).__name__ for v in values] == ["Parameter", "Parameter", "int",
                                                                            "Parameter"]
    table = nn.ParameterDict({"a": tt.ones(1), "b": 3})
    table.update([("c", tt.ones(2))])
    assert list(table) == ["a", "b", "c"] and list(table.state_dict()) == ["a", "c"]
    assert table.pop("b") == 3 and table.get("z", 1) == 1 and "a" in table
    with pytest.raises(TypeError, match="not a string"):
        table[1] = tt.ones(1)
    with pytest.raises(RuntimeError, match="should not be called"):
        table()


def _where():
    device = tt.zeros(1).device
    return "" if device.type == "cpu" else f" ({device})"
