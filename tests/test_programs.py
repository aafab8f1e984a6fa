"""Small programs as PyTorch users write them: run with t = tinytorch_gpu and with t = torch, they give the same."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings

import numpy as np
import pytest

import tinytorch_gpu as tt


def data(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def linear_regression(t):
    x, w = (t.tensor(data(0, 50, 3)), t.tensor([[1.0], [-2.0], [0.5]], dtype=t.float64))
    y = x @ w + 0.3
    model = t.nn.Linear(3, 1, dtype=t.float64)
    with t.no_grad():
        model.weight.fill_(0.1)
        model.bias.zero_()
    opt = t.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        opt.zero_grad()
        loss = t.nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return (losses, model.weight.detach(), model.bias.detach())


def buffers(t):

    class Net(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = t.nn.Parameter(t.arange(6.0).reshape(2, 3))
            self.register_buffer("mean", t.zeros(2))
            self.register_buffer("tmp", t.ones(2), persistent=False)

        def forward(self, x):
            y = x @ self.w.T
            if self.training:
                self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
            return (y - self.mean) * self.tmp

    net = Net()
    x = t.tensor(data(1, 4, 3), dtype=t.float32)
    out = net(x).sum()
    out.backward()
    net.eval()
    out2 = net(x)
    d = copy.deepcopy(net)
    d.load_state_dict(net.state_dict())
    return (out, out2, net.w.grad, sorted(net.state_dict()), d(x), [n for n, _ in net.named_buffers()])


def gan(t):
    g = t.nn.Sequential(t.nn.Linear(2, 8), t.nn.Tanh(), t.nn.Linear(8, 2)).double()
    d = t.nn.Sequential(t.nn.Linear(2, 8), t.nn.LeakyReLU(0.2), t.nn.Linear(8, 1)).double()
    rng = np.random.default_rng(3)
    with t.no_grad():
        for p in [*g.parameters(), *d.parameters()]:
            p.copy_(t.tensor(rng.standard_normal(tuple(p.shape)) * 0.5))
    og, od = (t.optim.Adam(g.parameters(), lr=0.01, betas=(0.5, 0.999)), t.optim.Adam(d.parameters(), lr=0.01))
    bce = t.nn.BCEWithLogitsLoss()
    log = []
    for _ in range(5):
        real, z = (t.tensor(rng.standard_normal((16, 2)) + 2), t.tensor(rng.standard_normal((16, 2))))
        fake = g(z)
        od.zero_grad()
        ld = bce(d(real), t.ones(16, 1, dtype=t.float64)) + bce(d(fake.detach()), t.zeros(16, 1, dtype=t.float64))
        ld.backward()
        od.step()
        og.zero_grad()
        lg = bce(d(fake), t.ones(16, 1, dtype=t.float64))
        lg.backward()
        og.step()
        log += [ld.item(), lg.item()]
    return log


def gradient_penalty(t):
    net = t.nn.Sequential(t.nn.Linear(3, 5), t.nn.SiLU(), t.nn.Linear(5, 1)).double()
    with t.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(t.tensor(data(i, *p.shape)))
    x = t.tensor(data(9, 6, 3), requires_grad=True)
    out = net(x)
    (g,) = t.autograd.grad(out, x, grad_outputs=t.ones_like(out), create_graph=True, retain_graph=True)
    penalty = ((g.norm(2, dim=1) - 1) ** 2).mean()
    (out.mean() + 10 * penalty).backward()
    return (penalty, [p.grad for p in net.parameters()], x.grad)


def schedule(t):
    p = t.nn.Parameter(t.tensor([1.0, 2.0]))
    opt = t.optim.AdamW([{"params": [p], "lr": 0.1}], weight_decay=0.1)
    warm = t.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=3)
    cos = t.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=5)
    s = t.optim.lr_scheduler.SequentialLR(opt, [warm, cos], milestones=[3])
    log = []
    for _ in range(8):
        opt.zero_grad(set_to_none=True)
        (p**2).sum().backward()
        opt.step()
        s.step()
        log.append((s.get_last_lr()[0], opt.param_groups[0]["lr"]))
    return (log, p.detach())


def custom_function(t):

    class Cube(t.autograd.Function):
        @staticmethod
        def forward(ctx, x, k):
            ctx.save_for_backward(x)
            ctx.k = k
            return k * x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return (g * 3 * ctx.k * x**2, None)

    x = t.tensor([1.0, -2.0], dtype=t.float64, requires_grad=True)
    y = Cube.apply(x, 2.0)
    (g,) = t.autograd.grad(y.sum(), x, create_graph=True)
    (gg,) = t.autograd.grad(g.sum(), x)
    return (y, g, gg, t.autograd.gradcheck(lambda x: Cube.apply(x, 2.0), (x,)))


def straight_through(t):

    class Round(t.autograd.Function):
        @staticmethod
        def forward(x):
            return x.round()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable()

        @staticmethod
        def backward(ctx, g):
            return g

    x = t.tensor([0.4, 1.6], requires_grad=True)
    (Round.apply(x) * t.tensor([1.0, 2.0])).sum().backward()
    return x.grad


def hooks(t):
    seen = []
    x = t.tensor([1.0, 2.0], requires_grad=True)
    h = x.register_hook(lambda g: g * 2)
    y = x * 3
    y.retain_grad()
    y.register_hook(lambda g: seen.append(g.clone()))
    y.sum().backward()
    first = x.grad.clone()
    h.remove()
    x.grad = None
    (x * 3).sum().backward()
    net = t.nn.Linear(2, 2)
    with t.no_grad():
        net.weight.copy_(t.eye(2))
        net.bias.zero_()
    log = []
    net.register_forward_hook(lambda m, i, o: log.append(o.shape[0]))
    net.register_forward_pre_hook(lambda m, i: (i[0] * 2,))
    net.register_full_backward_hook(lambda m, gi, go: log.append([g is None for g in gi]))
    out = net(t.ones(3, 2).requires_grad_())
    out.sum().backward()
    return (first, x.grad, y.grad, seen, log, out)


def checkpointing(t):
    ck = importlib.import_module(t.__name__ + ".utils.checkpoint").checkpoint
    drop = t.nn.Dropout(0.5)
    w = t.nn.Parameter(t.ones(4, 4, dtype=t.float64))
    x = t.tensor(data(4, 2, 4), requires_grad=True)
    t.manual_seed(0)
    a = drop(t.tanh(x @ w)).sum()
    a.backward()
    ga, x.grad = (x.grad.clone(), None)
    t.manual_seed(0)
    b = ck(lambda x: drop(t.tanh(x @ w)).sum(), x, use_reentrant=False)
    b.backward()
    return (t.equal(a, b), t.equal(ga, x.grad))


def saved_hooks(t):
    g = importlib.import_module(t.__name__ + ".autograd.graph")
    n = []
    x = t.tensor([1.0, 2.0], requires_grad=True)

    def pack(v):
        n.append("p")
        return v.detach().cpu().numpy().copy()

    def unpack(v):
        n.append("u")
        return t.from_numpy(v)

    with g.saved_tensors_hooks(pack, unpack):
        y = (x * x).exp()
    y.sum().backward()
    return (x.grad, n)


def functional_derivatives(t):
    F = t.autograd.functional

    def f(x, y):
        return (x**2 * y.sin()).sum() + (x * y).prod()

    a, b = (t.tensor(data(5, 3)), t.tensor(data(6, 3)))
    v = t.tensor(data(7, 3))
    return (
        F.jacobian(lambda x: x.cumsum(0) * x, a), F.hessian(f, (a, b)), F.vjp(lambda x: x**3, a, v),
        F.jvp(lambda x: x**3, a, v), F.hvp(lambda x: (x**3).sum(), a, v), F.vhp(lambda x: (x**3).sum(), a, v),
    )


def inplace_tricks(t):
    x = t.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    y = x * 1
    y[1:3] *= 2
    y[::2] += 1
    z = y.view(2, 2)
    z[0].mul_(3)
    y.clamp_(max=10)
    y[y > 9] = 0
    y.relu_()
    (y**2).sum().backward()
    b = t.zeros(3, 3)
    b.diagonal().fill_(1)
    b[0, :] = t.tensor([1.0, 2.0, 3.0])
    b[:, 1] -= 1
    b[t.tensor([0, 2])] = 5
    c = t.arange(4)
    c += 1
    c *= 2
    c //= 3
    d = t.ones(2)
    d.sub_(1).add_(2, alpha=3).div_(2).pow_(2).neg_()
    d.masked_fill_(d > 0, 7)
    e = t.zeros(2, 3)
    e.scatter_(1, t.tensor([[0], [2]]), 1.0)
    e.index_fill_(0, t.tensor([1]), 4.0)
    return (y, x.grad, b, c, d, e)


def loader(t):
    D = t.utils.data
    x, y = (t.tensor(data(8, 10, 3), dtype=t.float32), t.arange(10))
    ds = D.TensorDataset(x, y)
    net = t.nn.Linear(3, 10)
    with t.no_grad():
        net.weight.fill_(0.01)
        net.bias.zero_()
    opt = t.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    seen = []
    for _ in range(2):
        for xb, yb in D.DataLoader(ds, batch_size=4, shuffle=False, drop_last=False):
            opt.zero_grad()
            t.nn.functional.cross_entropy(net(xb), yb).backward()
            opt.step()
            seen.append(len(xb))
    a, b = D.random_split(ds, [7, 3], generator=t.Generator().manual_seed(0))
    order = sorted((int(v) for _, yb in D.DataLoader(ds, batch_size=3, shuffle=True) for v in yb))

    class Stream(D.IterableDataset):
        def __iter__(self):
            return iter(range(5))

    return (
        seen, net.weight, len(a), len(b), order, [v.tolist() for v in D.DataLoader(Stream(), batch_size=2)],
        next(iter(D.DataLoader([{"a": 1, "b": [1.0, 2.0]}] * 2, batch_size=2)))["b"][1],
    )


def persistence(t):
    net = t.nn.Sequential(t.nn.Linear(2, 3), t.nn.BatchNorm1d(3), t.nn.ReLU())
    with t.no_grad():
        for p in net.parameters():
            p.copy_(t.linspace(-1, 1, p.numel()).view_as(p))
    x = t.tensor(data(11, 5, 2), dtype=t.float32)
    net(x)
    net.eval()
    again = pickle.loads(pickle.dumps(net))
    opt = t.optim.Adam(net.parameters(), lr=0.1)
    net(x).sum().backward()
    opt.step()
    o2 = t.optim.Adam(again.parameters())
    again.load_state_dict(net.state_dict())
    o2.load_state_dict(opt.state_dict())
    a = pickle.loads(pickle.dumps(t.tensor([1.0, 2.0], requires_grad=True)))
    c = copy.copy(t.tensor([1, 2]))
    q = copy.deepcopy(t.nn.Parameter(t.ones(2)))
    return (
        net(x), again(x), o2.param_groups[0]["lr"], o2.state_dict()["state"][0]["exp_avg"], a, a.requires_grad, c,
        type(q).__name__, sorted(opt.state_dict()["state"][0]),
    )


def halves(t):
    out = []
    for dt in (t.bfloat16, t.float16):
        net = t.nn.Sequential(t.nn.Linear(4, 8), t.nn.GELU(), t.nn.LayerNorm(8), t.nn.Linear(8, 2))
        with t.no_grad():
            for p in net.parameters():
                p.copy_(t.linspace(-0.5, 0.5, p.numel()).view_as(p))
        net = net.to(dt)
        x = t.tensor(data(12, 3, 4)).to(dt)
        loss = t.nn.functional.cross_entropy(net(x), t.tensor([0, 1, 1]))
        loss.backward()
        out += [loss.float(), loss.dtype == dt, net[0].weight.grad.float(), (x + 1).dtype == dt, (x @ x.T).float()]
    return out


def complexes(t):
    z = t.tensor([1 + 2j, -0.5 + 1j], dtype=t.complex128, requires_grad=True)
    loss = (z.abs() ** 2 + (z * z.conj()).real + z.imag).sum()
    loss.backward()
    w = t.view_as_real(z.detach())
    m = t.complex(t.ones(2), t.zeros(2))
    return (
        loss, z.grad, w, m, z.detach().exp(), z.detach()[:, None] @ z.detach()[None, :], t.is_complex(z),
        z.detach().real,
    )


def double_default(t):
    t.set_default_dtype(t.float64)
    try:
        net = t.nn.Linear(2, 2)
        return (
            t.ones(2).dtype == t.float64, net.weight.dtype == t.float64, (t.tensor([1]) / 2).dtype == t.float64,
            t.tensor(1.5).dtype == t.float64, t.get_default_dtype() == t.float64,
            t.tensor([1j]).dtype == t.complex128, t.rand(2).dtype == t.float64, t.arange(2.0).dtype == t.float64,
        )
    finally:
        t.set_default_dtype(t.float32)


def numpy_interop(t):
    x = t.tensor([1.0, 2.0])
    n = np.array([3.0, 4.0], dtype=np.float32)
    shared = t.from_numpy(n)
    shared[0] = 9.0
    return (
        np.asarray(x), x.numpy(), n, x * t.from_numpy(n), np.sum(x.numpy()), t.as_tensor(n), float(x[0]), x.tolist(),
        t.tensor(np.float32(2)), t.tensor([np.float64(1)]), np.sqrt(x.numpy()), np.array([x, x]).shape,
        t.tensor(np.arange(3)).dtype == t.int64, t.tensor([x[0], x[1]]), np.float32(2) * x, x * np.float32(2),
        np.asarray(x, dtype=np.float64).dtype.name, (x.detach().cpu().numpy() == [1, 2]).all(),
        t.ones(3)[np.array([0, 2])], t.ones(3)[np.int64(1)], t.full((2,), np.float32(3)),
        t.ones(np.int64(2), 3).shape[0], x + np.float64(1), (x + np.float64(1)).dtype == t.float32, x ** np.int64(2),
    )


def printing(t):
    name = t.__name__
    xs = [
        t.tensor(1.5), t.tensor([1, 2]), t.tensor([1.0, 2.5]), t.ones(2, 3), t.tensor([True]),
        t.tensor([10000000000.0, 1.0]), t.zeros(0), t.tensor([float("nan"), float("inf")]),
        t.ones(3, requires_grad=True), t.tensor([1 + 2j]), t.ones(2, dtype=t.float64), t.arange(2000),
        t.ones(2, dtype=t.bfloat16), t.tensor([1e-08, 1.0]), t.ones(1, 2, 2),
    ]
    net = t.nn.Sequential(
        t.nn.Linear(2, 3), t.nn.Conv2d(3, 4, 3, padding=1, bias=False), t.nn.ReLU(inplace=True), t.nn.BatchNorm2d(4),
        t.nn.Dropout(0.1), t.nn.MaxPool2d(2), t.nn.Embedding(4, 2), t.nn.LayerNorm(3), t.nn.GELU(),
        t.nn.ModuleList([t.nn.Identity()]), t.nn.Softmax(dim=1), t.nn.Flatten(), t.nn.CrossEntropyLoss(),
        t.nn.AvgPool2d(2), t.nn.AdaptiveAvgPool2d(1), t.nn.RMSNorm(3),
    )
    return (
        [repr(x).replace(name, "t") for x in xs], repr(net), f"{t.tensor(1.5):.2f}", f"{t.tensor(3)}",
        repr(t.optim.SGD([t.ones(1, requires_grad=True)], lr=0.1)).replace(" ", ""),
        str(t.float32).replace(name, "t"), repr(t.ones(1).device), str(t.nn.Parameter(t.ones(2))),
    )


def python_protocol(t):
    x = t.arange(6).reshape(2, 3)
    p = t.nn.Parameter(t.ones(2))
    a, b = x
    d = {p: 1, x: 2}
    return (
        len(x), [int(v) for v in x[0]], 3 in x, 9 in x, x.__eq__(None) is NotImplemented, x is None, d[p],
        p in set([p]), bool(t.tensor([1])), bool(t.tensor(0.0)), a, b, list(reversed(t.arange(3))),
        [10, 20, 30][t.tensor(1)], range(t.tensor(3)), round(float(t.tensor(2.7))), -x, +x, abs(-x),
        ~t.tensor([True]), x[..., None].shape == (2, 3, 1), x[1, -1], x[:, ::2], x[[0, 1], [1, 2]], x[x > 2],
        (x > 1) & (x < 4), (x > 1) | (x < 1), x != 3, 2**x, 7 // (x + 1), 7 % (x + 1), 1 - x, 2 / (x + 1), x @ x.T,
        max(t.tensor([1, 3])), sum(t.tensor([1, 3])), sorted(t.tensor([3, 1]).tolist()), x.shape[0] * 2, x.size(),
        x.size(1), x.dim(), x.numel(), x.nelement(), x.element_size(), x.stride(), x.is_contiguous(),
        x.t().is_contiguous(), x.T.shape == (3, 2), x.mT.shape == (3, 2), x.type(t.float32).dtype == t.float32,
        x.float().is_floating_point(), isinstance(x, t.Tensor), t.is_tensor(x), x.new_zeros(2), x.new_tensor([1.0]),
        x.equal(x.clone()), t.allclose(x.float(), x.float() + 1e-09),
    )


def attention_block(t):
    F = t.nn.functional
    q, k, v = (t.tensor(data(20 + i, 2, 3, 4, 5), requires_grad=True) for i in range(3))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = t.ones(4, 4, dtype=t.bool).tril()
    y2 = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    (y * y2).sum().backward()
    m = t.nn.MultiheadAttention(4, 2, batch_first=True).double()
    with t.no_grad():
        for i, p in enumerate(m.parameters()):
            p.copy_(t.tensor(data(i, *p.shape)))
    o, w = m(*[t.tensor(data(30, 2, 3, 4))] * 3)
    return (y, y2, q.grad, k.grad, v.grad, o, w)


def conv_net(t):
    F = t.nn.functional
    x = t.tensor(data(40, 2, 3, 8, 8), requires_grad=True)
    w = t.tensor(data(41, 4, 3, 3, 3), requires_grad=True)
    h = F.max_pool2d(F.relu(F.conv2d(x, w, padding=1, stride=1)), 2)
    h = F.adaptive_avg_pool2d(F.batch_norm(h, None, None, training=True), (2, 2)).flatten(1)
    h = F.log_softmax(F.pad(h, (1, 1)), dim=-1)
    F.nll_loss(h, t.tensor([1, 2])).backward()
    return (h, x.grad, w.grad)


def grad_accumulation(t):
    x = t.tensor([1.0, 2.0], requires_grad=True)
    y = (x**2).sum()
    y.backward(retain_graph=True)
    y.backward()
    g1 = x.grad.clone()
    x.grad.zero_()
    with t.no_grad():
        x -= 0.1 * g1
    z = x.detach().requires_grad_()
    (z * x).sum().backward()
    a, b = x.unbind()
    (a * b).backward()
    with t.enable_grad():
        q = x.sum()
    with t.set_grad_enabled(False):
        r = x.sum()
    with t.inference_mode():
        s = x.sum()
    return (
        g1, x.grad, z.grad, x, q.requires_grad, r.requires_grad, s.is_inference(), x.is_leaf,
        (x * 1).grad_fn is not None, t.autograd.grad((x**3).sum(), x)[0],
    )


def creation(t):
    t.manual_seed(0)
    a = t.rand(3)
    t.manual_seed(0)
    b = t.rand(3)
    g = t.Generator().manual_seed(5)
    s = g.get_state()
    c = t.randn(2, generator=g)
    g.set_state(s)
    d = t.randn(2, generator=g)
    return (
        t.equal(a, b), t.equal(c, d), t.linspace(0, 1, 5), t.arange(0, 1, 0.25), t.eye(2, 3), t.full((2,), 3),
        t.full((2,), 3.0), t.zeros_like(t.ones(2, dtype=t.int64)), t.empty(2, 0).shape[1],
        t.tensor([[1, 2], [3, 4]], dtype=t.float16).dtype == t.float16, t.logspace(0, 2, 3), t.tril(t.ones(3, 3)),
        t.triu(t.ones(3, 3), 1), t.diag(t.tensor([1.0, 2.0])), t.stack([t.ones(2), t.zeros(2)]),
        t.cat([t.ones(1), t.zeros(1)]), t.meshgrid(t.arange(2), t.arange(3), indexing="ij")[1],
        t.nn.functional.one_hot(t.tensor([0, 2]), 3), t.randperm(5).sort()[0], t.bernoulli(t.tensor([0.0, 1.0])),
        t.multinomial(t.tensor([0.0, 1.0]), 1), t.bincount(t.tensor([0, 1, 1])),
        t.where(t.tensor([True, False]), 1.0, 2.0), t.zeros((2, 1)).shape[0], t.ones([2]).shape[0],
    )


def needs_input_grad(t):
    class Product(t.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return a * b

        @staticmethod
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            needs = ctx.needs_input_grad
            return g * b if needs[0] else None, g * a if needs[1] else None

    a, b = t.tensor(2.0, requires_grad=True), t.tensor(3.0, requires_grad=True)
    y = Product.apply(a, b)
    (only,) = t.autograd.grad(y, a, retain_graph=True)
    y.backward()
    return only, a.grad, b.grad


def modes(t):
    states = []
    with t.inference_mode():
        with t.inference_mode(False):
            states += [t.is_grad_enabled(), t.is_inference_mode_enabled()]
        states += [t.is_grad_enabled(), t.is_inference_mode_enabled()]
    with t.no_grad(), t.inference_mode(False):
        states.append(t.is_grad_enabled())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unused = t.autograd.detect_anomaly()
        states.append(t.is_anomaly_enabled() if t is not tt else t.autograd.is_anomaly_enabled())
        with unused:
            states.append(t.is_anomaly_enabled() if t is not tt else t.autograd.is_anomaly_enabled())
    return states


PROGRAMS = [
    modes,
    linear_regression, buffers, gan, gradient_penalty, schedule, custom_function, straight_through, hooks,
    checkpointing, saved_hooks, functional_derivatives, inplace_tricks, loader, persistence, halves, complexes,
    double_default, numpy_interop, printing, python_protocol, attention_block, conv_net, grad_accumulation, creation,
    needs_input_grad,
]
HOST = (numpy_interop, saved_hooks, printing)  # they read NumPy arrays, or print the device: on the CPU only
TOLERANCE = {"bfloat16": 2e-2, "float16": 3e-3, "float32": 1e-5, "complex64": 1e-5}  # some roundings of each dtype


def flat(value):
    if isinstance(value, (list, tuple)):
        return [leaf for each in value for leaf in flat(each)]
    return [value]


def same(ours, theirs, loose, where):
    if isinstance(theirs, (float, np.ndarray, np.generic)):
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-7, err_msg=where)
    elif hasattr(theirs, "detach"):
        name = str(theirs.dtype).rpartition(".")[2]
        assert str(ours.dtype).rpartition(".")[2] == name, where
        assert tuple(ours.shape) == tuple(theirs.shape), where
        tolerance = max(loose, TOLERANCE.get(name, 1e-10))
        a, b = ours.detach().cpu(), theirs.detach()
        if name == "bfloat16":
            a, b = a.float(), b.float()
        np.testing.assert_allclose(a.numpy(), b.resolve_conj().numpy(), rtol=tolerance, atol=tolerance, err_msg=where)
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_program(program, device, torch):
    with tt.device("cpu" if program in HOST else device):
        ours = flat(program(tt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = flat(program(torch))
    assert len(ours) == len(theirs)
    loose = 2e-2 if program is halves else 0  # widened before the comparison
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        same(a, b, loose, f"result {i} of {program.__name__}")


def test_a_module_does_not_hide_the_function_of_its_name():
    importlib.import_module("tinytorch_gpu.autograd.gradcheck")
    assert tt.autograd.gradcheck(tt.exp, tt.ones(2, dtype=tt.float64, requires_grad=True))
