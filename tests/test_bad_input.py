"""Bad input: each program raises PyTorch's exception class, with one message `[op] what, got, how to mend`.

A row is a program on `t` (a torch-like package) and `F` (its nn.functional), the class, and the words of the message.
"""
from __future__ import annotations

import errno
import re
import warnings

import numpy as np
import pytest

import tinytorch_gpu as tt

BAD = [
    ("t.ones(2,3)+t.ones(2,4)", RuntimeError, "[Add] float32 2"),
    ("t.ones(2,3)@t.ones(2,3)", RuntimeError, "[matmul] 2 3"),
    ("t.matmul(t.tensor(1.), t.ones(3))", RuntimeError, "[matmul] arguments"),
    ("t.mm(t.ones(2,3,4), t.ones(4,5))", RuntimeError, "[mm] 2 3"),
    ("t.bmm(t.ones(2,3,4), t.ones(3,4,5))", RuntimeError, "[bmm] 2 3"),
    ("t.ones(2,3)@t.ones(3,2,dtype=t.float64)", RuntimeError, "[matmul] float32 float64"),
    ("t.ones(2,3)@t.ones(3,2,dtype=t.int64)", RuntimeError, "[matmul] float32 int64"),
    ("t.addmm(t.ones(3), t.ones(2,3), t.ones(4,3))", RuntimeError, "[matmul] 2 3"),
    ("t.dot(t.ones(3), t.ones(4))", RuntimeError, "[matmul] 3 4"),
    ("t.outer(t.ones(2,2), t.ones(3))", RuntimeError, "[outer] 1 2"),
    ('t.einsum("ij,jk->ik", t.ones(2,3), t.ones(4,5))', RuntimeError, "[einsum] 3 4"),
    ('t.einsum("ij,jk->ik", t.ones(2,3))', RuntimeError, "[einsum] 2 1"),
    ('t.einsum("ij->ik", t.ones(2,3))', RuntimeError, "[einsum] output"),
    ("t.ones(6).reshape(4)", RuntimeError, "[reshape] 4 6"),
    ("t.ones(6).reshape(-1,-1)", RuntimeError, "[reshape] -1 dimension"),
    ("t.ones(2,3).t().view(6)", RuntimeError, "[view] 6 3"),
    ("t.ones(2,3).view(5)", RuntimeError, "[view] 5 6"),
    ("t.ones(2,3).squeeze(5)", IndexError, "[squeeze] -2 1"),
    ("t.ones(2,3).unsqueeze(5)", IndexError, "[unsqueeze] -3 2"),
    ("t.ones(2,3).transpose(0,2)", IndexError, "[transpose] -2 1"),
    ("t.ones(2,3).permute(0,0)", RuntimeError, "[permute] 0 duplicate"),
    ("t.ones(2,3).permute(0)", RuntimeError, "[permute] 2 1"),
    ("t.ones(2,3).expand(4,3)", RuntimeError, "[expand] 4 3"),
    ("t.ones(2,3).expand(3)", RuntimeError, "[expand] 3 2"),
    ("t.cat([t.ones(2,3), t.ones(2,4)])", RuntimeError, "[cat] 0 2"),
    ("t.cat([])", ValueError, "[cat] list expected"),
    ("t.cat(t.ones(2))", TypeError, "[cat] list tensors"),
    ("t.stack([t.ones(2), t.ones(3)])", RuntimeError, "[stack] 2 0"),
    ("t.stack([])", RuntimeError, "[stack] list expected"),
    ("t.ones(5).split([2,2])", RuntimeError, "[split] 5 0"),
    ("t.ones(5).split(-1)", RuntimeError, "[split] -1 expects"),
    ("t.ones(5).chunk(0)", RuntimeError, "[chunk] 0 expects"),
    ("t.ones(2,3).flatten(1,0)", RuntimeError, "[flatten] 1 0"),
    ("t.ones(2,3).sum(2)", IndexError, "[sum] -2 1"),
    ("t.ones(2,3).sum((0,0))", RuntimeError, "[sum] 0 list"),
    ("t.ones(3,dtype=t.int64).mean()", RuntimeError, "[mean] int64 output"),
    ("t.ones(0).max()", RuntimeError, "[max] 0 xpected"),
    ("t.ones(0).argmax()", IndexError, "[argmax] 0 xpected"),
    ("t.ones(0,3).max(0)", IndexError, "[max] 0 3"),
    ("t.ones(2,3).softmax(3)", IndexError, "[softmax] -2 1"),
    ("t.ones(2,3).var(4)", IndexError, "[var] -2 1"),
    ("t.ones(2,3).cumsum(2)", IndexError, "[cumsum] -2 1"),
    ("t.ones(3).topk(5)", RuntimeError, "[topk] 5 0"),
    ("t.ones(3).sort(2)", IndexError, "[sort] -1 0"),
    ("t.ones(3)[5]", IndexError, "[getitem] 5 0"),
    ("t.ones(3)[-4]", IndexError, "[getitem] -4 0"),
    ("t.ones(3)[0,0]", IndexError, "[getitem] 1 2"),
    ("t.tensor(1.)[0]", IndexError, "[getitem] 0 1"),
    ("t.ones(3)[t.tensor([1.,2.])]", IndexError, "[getitem] int64 int32"),
    ("t.ones(3)[1.5]", IndexError, "[getitem] integers"),
    ("t.ones(3)[t.tensor([True,False])]", IndexError, "[getitem] 2 0"),
    ("t.ones(3)[::-1]", ValueError, "[getitem] -1 greater"),
    ("t.ones(3,3)[t.tensor([0,1]), t.tensor([0,1,2])]", IndexError, "[getitem] 2 3"),
    ("t.ones(3).__setitem__(slice(0,2), t.ones(3))", RuntimeError, "[copy_] 3 2"),
    ("t.ones(3).__setitem__(5, 1.)", IndexError, "[getitem] 5 0"),
    ("t.ones(3).gather(0, t.tensor([1.]))", RuntimeError, "[gather] int64 float32"),
    ("t.ones(3,3).gather(0, t.tensor([1]))", RuntimeError, "[gather] 1 2"),
    ("t.zeros(3).scatter_add(0, t.tensor([1]), t.ones(1,dtype=t.float64))",
     RuntimeError, "[scatter_add] float32 float64"),
    ("t.ones(3).index_select(0, t.tensor([[1]]))", IndexError, "[index_select] 2 supposed"),
    ("t.ones(3).index_add(0, t.tensor([0,1]), t.ones(3))", RuntimeError, "[index_add] 2 0"),
    ("t.ones(3).masked_fill(t.tensor([1,0,1]), 0.)", RuntimeError, "[masked_fill] int64 bool"),
    ("t.ones(3).masked_fill(t.tensor([True,False]), 0.)", RuntimeError, "[MaskedFill] float32 3"),
    ("t.where(t.ones(3), t.ones(3), t.ones(3))", RuntimeError, "[where] float32 expected"),
    ("F.pad(t.ones(3), (1,))", RuntimeError, "[pad] 2 1"),
    ("F.pad(t.ones(3), (1,1,1,1))", RuntimeError, "[pad] 4 1"),
    ('F.pad(t.ones(1,3), (5,5), mode="reflect")', RuntimeError, "[pad] 5 1"),
    ('F.pad(t.ones(1,3), (1,1), mode="magic")', NotImplementedError, "[pad] unrecognised"),
    ("t.ones(2).item()", RuntimeError, "[item] 2 list"),
    ("bool(t.ones(2))", RuntimeError, "[bool] 2 elements"),
    ("bool(t.ones(0))", RuntimeError, "[bool] 0 elements"),
    ("len(t.tensor(1.))", TypeError, "[len] 0 tensor"),
    ("iter(t.tensor(1.))", TypeError, "[iter] 0 iteration"),
    ("int(t.ones(2))", ValueError, "[int] 2 list"),
    ("[1,2,3][t.tensor(1.)]", TypeError, "[index] integer"),
    ("t.ones(2, requires_grad=True).numpy()", RuntimeError, "[numpy] requires"),
    ("(t.ones(2, requires_grad=True)*2).backward()", RuntimeError, "[backward] 2 implicitly"),
    ("(lambda y: (y.backward(), y.backward()))((t.ones(2, requires_grad=True)**2).sum())",
     RuntimeError, "[Pow] trying"),
    ("t.ones(2).sum().backward()", RuntimeError, "[backward] element"),
    ("t.ones(2,dtype=t.int64).sum().backward()", RuntimeError, "[backward] element"),
    ("(t.ones(2, requires_grad=True)*2).backward(t.ones(3))", RuntimeError, "[backward] 3 2"),
    ("(t.ones(2, requires_grad=True)*2).backward([1.,1.])", TypeError, "[backward] list gradients"),
    ("t.ones(2, dtype=t.int64, requires_grad=True)", RuntimeError, "[requires_grad] int64 floating"),
    ("t.ones(2, dtype=t.int64).requires_grad_()", RuntimeError, "[requires_grad] int64 floating"),
    ("t.tensor([1,2], requires_grad=True)", RuntimeError, "[requires_grad] int64 floating"),
    ("t.autograd.grad(t.ones(2,requires_grad=True).sum(), t.ones(2, requires_grad=True))",
     RuntimeError, "[grad] differentiated"),
    ("t.autograd.grad(t.ones(2,requires_grad=True).sum(), t.ones(2))", RuntimeError, "[grad] differentiated"),
    ("t.ones(2,requires_grad=True).add_(1)", RuntimeError, "[add_] ariable"),
    ("t.ones(2,requires_grad=True).__setitem__(0, 1.)", RuntimeError, "[Fill] ariable"),
    ("t.ones(1).add_(t.ones(3))", RuntimeError, "[add_] 1 3"),
    ("t.ones(2,dtype=t.int64).add_(1.5)", RuntimeError, "[add_] float32 int64"),
    ("t.ones(2,dtype=t.int64).div_(2)", RuntimeError, "[div_] float32 int64"),
    ("t.ones(1).expand(3).add_(1)", RuntimeError, "[add_] unsupported"),
    ("(lambda x: (lambda y: (lambda z: (y.add_(1), z.backward()))((y**2).sum()))(x*1))(t.ones(2, requires_grad=True))",
     RuntimeError, "[Pow] 0 float32"),
    ("(lambda x: (lambda y: (lambda z: (y.add_(1), z.backward()))(y.exp_().exp().sum() + "
     "(y*y).sum()))(x*1))(t.ones(2, requires_grad=True))",
     RuntimeError, "[Mul] 0 float32"),
    ("(t.ones(2,requires_grad=True)*2).requires_grad_(False)", RuntimeError, "[requires_grad] change"),
    ("t.ones(2).retain_grad()", RuntimeError, "[retain_grad] retain_grad"),
    ("t.ones(2).register_hook(print)", RuntimeError, "[register_hook] cannot"),
    ('setattr(t.ones(2), "grad", t.ones(3))', RuntimeError, "[grad] float32 2"),
    ('setattr(t.ones(2), "grad", 3)', TypeError, "[grad] expected"),
    ('setattr(t.ones(2), "grad", t.ones(2, dtype=t.float64))', RuntimeError, "[grad] float32 2"),
    ('__import__("copy").deepcopy(t.ones(2,requires_grad=True)*2)', RuntimeError, "[deepcopy] ensors"),
    ("t.tensor([[1,2],[3]])", ValueError, "[tensor] 2 1"),
    ('t.tensor(["a"])', ValueError, "[tensor] str dimensions"),
    ("t.tensor(None)", RuntimeError, "[tensor] NoneType expected"),
    ("t.tensor(object())", RuntimeError, "[tensor] object"),
    ("t.from_numpy([1.])", TypeError, "[from_numpy] list expected"),
    ('t.from_numpy(__import__("numpy").array(["a"]))', TypeError, "[tensor] float64 float32"),
    ("t.ones(-1)", RuntimeError, "[ones] -1 trying"),
    ("t.ones(2.5)", TypeError, "[ones] 2 5"),
    ('t.zeros("a")', TypeError, "[zeros] integers"),
    ("t.arange(0,5,0)", RuntimeError, "[arange] nonzero"),
    ("t.arange(5,0)", RuntimeError, "[arange] 5 0"),
    ("t.linspace(0,1,-1)", RuntimeError, "[linspace] -1 number"),
    ("t.eye(-2)", RuntimeError, "[eye] 0 -2"),
    ("t.randint(5, 2, (3,))", RuntimeError, "[randint] 5 2"),
    ("t.randperm(-1)", RuntimeError, "[randperm] -1 negative"),
    ("t.multinomial(t.tensor([-1.,1.]), 1)", RuntimeError, "[multinomial] 0 probability"),
    ("t.normal(0., -1., (2,))", RuntimeError, "[normal] 0 -1"),
    ('t.ones(2, device="tpu")', RuntimeError, "[device] expected"),
    ('t.device("cpu:x")', RuntimeError, "[device] 0 invalid"),
    ('t.ones(2).to("magic")', RuntimeError, "[device] expected"),
    ('t.ones(2) + "a"', TypeError, "[dtype] str expected"),
    ("t.ones(2) + None", TypeError, "[Add] float32 2"),
    ("t.ones(2) + [1,2]", TypeError, "[dtype] list 1"),
    ('t.ones(2) < "a"', TypeError, "[dtype] str expected"),
    ("t.tensor([True]) - t.tensor([True])", RuntimeError, "[sub] bool subtraction"),
    ("-t.tensor([True])", RuntimeError, "[neg] bool negation"),
    ("t.ones(2) & t.ones(2)", NotImplementedError, "[BitwiseAnd] float32 2"),
    ("t.ones(2,dtype=t.int64) ** -1", RuntimeError, "[pow] integers"),
    ("t.ones(2).clamp()", RuntimeError, "[clamp]"),
    ('t.relu("a")', TypeError, "[relu] str expected"),
    ("t.relu([1.])", TypeError, "[relu] list expected"),
    ("t.exp(None)", TypeError, "[Exp] NoneType expected"),
    ("F.linear(t.ones(2,3), t.ones(4,5))", RuntimeError, "[linear] 2 3"),
    ("F.linear(t.ones(2,3), t.ones(4,3), t.ones(5))", RuntimeError, "[linear] 4 5"),
    ("F.linear(t.ones(2,3), t.ones(4,3,dtype=t.float64))", RuntimeError, "[linear] float32 float64"),
    ("t.nn.Linear(3,4)(t.ones(2,5))", RuntimeError, "[linear] 2 5"),
    ("t.nn.Linear(3,4)(t.ones(2,3,dtype=t.int64))", RuntimeError, "[linear] int64 float32"),
    ("t.nn.Linear(-3,4)", RuntimeError, "[empty] -3 4"),
    ('t.nn.Linear("a",4)', TypeError, "[empty] 4 integers"),
    ("F.conv2d(t.ones(1,3,5,5), t.ones(2,4,3,3))", RuntimeError, "[conv2d] 2 4"),
    ("F.conv2d(t.ones(3), t.ones(2,4,3,3))", RuntimeError, "[conv2d] 3 2"),
    ("F.conv2d(t.ones(1,3,2,2), t.ones(2,3,3,3))", RuntimeError, "[conv2d] 2 3"),
    ("F.conv2d(t.ones(1,3,5,5), t.ones(2,3,3,3), stride=0)", RuntimeError, "[conv2d] 0 1"),
    ("F.conv2d(t.ones(1,3,5,5), t.ones(2,3,3,3), groups=2)", RuntimeError, "[conv2d] 2 3"),
    ("F.conv2d(t.ones(1,3,5,5), t.ones(2,3,3,3, dtype=t.float64))", RuntimeError, "[conv2d] float32 float64"),
    ('F.conv2d(t.ones(1,3,5,5), t.ones(2,3,3,3), padding="magic")', RuntimeError, "[conv2d] padding"),
    ("t.nn.Conv2d(3,4,3,groups=2)", ValueError, "[Conv2d] 3 2"),
    ('t.nn.Conv2d(3,4,3,padding_mode="magic")', ValueError, "[Conv2d] padding_mode"),
    ("F.max_pool2d(t.ones(1,1,2,2), 3)", RuntimeError, "[max_pool2d] 2 3"),
    ("F.max_pool2d(t.ones(2), 2)", RuntimeError, "[max_pool2d] 2 expected"),
    ("F.max_pool2d(t.ones(1,1,5,5), 2, padding=2)", RuntimeError, "[max_pool2d] 2 should"),
    ("F.avg_pool2d(t.ones(1,1,2,2), 3)", RuntimeError, "[avg_pool2d] 2 3"),
    ("F.embedding(t.tensor([1.]), t.ones(3,2))", RuntimeError, "[embedding] int32 int64"),
    ("t.nn.Embedding(3,2,padding_idx=5)", AssertionError, "[Embedding] 5 3"),
    ("F.dropout(t.ones(2), 1.5)", ValueError, "[dropout] 0 1"),
    ("t.nn.Dropout(-0.1)", ValueError, "[Dropout] 0 1"),
    ("F.cross_entropy(t.ones(2,3), t.tensor([1,2,0]))", ValueError, "[cross_entropy] 2 3"),
    ("F.cross_entropy(t.ones(2,3), t.tensor([1.,2.]))", RuntimeError, "[cross_entropy] float32 expected"),
    ('F.cross_entropy(t.ones(2,3), t.tensor([1,2]), reduction="magic")', ValueError, "[cross_entropy] reduction"),
    ("F.cross_entropy(t.ones(2,3), t.tensor([1,2]), weight=t.ones(2))", RuntimeError, "[cross_entropy] 3 2"),
    ("F.cross_entropy(t.ones(2,3), t.tensor([1,2]), label_smoothing=2.)", RuntimeError, "[cross_entropy] 0 1"),
    ("F.nll_loss(t.ones(2,3), t.tensor([1,2],dtype=t.int32))", RuntimeError, "[nll_loss] int32 expected"),
    ("F.mse_loss(t.ones(2), t.ones(3))", RuntimeError, "[MSELoss] float32 2"),
    ("F.binary_cross_entropy(t.tensor([.2]), t.tensor([1.,1.]))", ValueError, "[binary_cross_entropy] 2 1"),
    ("F.binary_cross_entropy_with_logits(t.tensor([.2]), t.tensor([1.,1.]))",
     ValueError, "[binary_cross_entropy_with_logits] 2 1"),
    ("F.smooth_l1_loss(t.ones(2), t.ones(2), beta=-1.)", RuntimeError, "[smooth_l1_loss] -1 0"),
    ('F.l1_loss(t.ones(2), t.ones(2), reduction="x")', ValueError, "[l1_loss] reduction"),
    ("F.layer_norm(t.ones(2,3), (4,))", RuntimeError, "[layer_norm] 4 2"),
    ("F.layer_norm(t.ones(2,3), (3,), t.ones(4))", RuntimeError, "[layer_norm] 3 4"),
    ("F.rms_norm(t.ones(2,3), (4,))", RuntimeError, "[rms_norm] 4 2"),
    ("t.nn.BatchNorm2d(3)(t.ones(2,3))", ValueError, "[BatchNorm2d.forward] expected"),
    ("t.nn.BatchNorm1d(3)(t.ones(2,4))", RuntimeError, "[batch_norm] 4 3"),
    ("t.nn.BatchNorm1d(3)(t.ones(1,3))", ValueError, "[batch_norm] 1 3"),
    ("F.scaled_dot_product_attention(t.ones(1,2,3,4), t.ones(1,2,3,5), t.ones(1,2,3,5))",
     RuntimeError, "[scaled_dot_product_attention] 1 2"),
    ("t.nn.MultiheadAttention(5, 2)", AssertionError, "[MultiheadAttention] 5 2"),
    ("t.nn.Sequential(3)", TypeError, "[add_module] subclass"),
    ("t.nn.ModuleList([t.nn.ReLU()])[3]", IndexError, "[index] 3 1"),
    ('(lambda M: setattr(M(), "a", t.nn.Linear(1,1)))(type("M", (t.nn.Module,), {"__init__": lambda s: None}))',
     AttributeError, "[M] cannot"),
    ("t.nn.Module()(1)", NotImplementedError, "[Module] module"),
    ('t.nn.Module().register_parameter("a.b", t.nn.Parameter(t.ones(1)))', KeyError, "[Module] parameter"),
    ('t.nn.Module().register_buffer("a", 3)', TypeError, "[register_buffer] cannot"),
    ('setattr(t.nn.Linear(1,1), "weight", t.ones(1,1))', TypeError, "[Linear] cannot"),
    ("t.nn.Linear(1,1).load_state_dict({})", RuntimeError, "[load_state_dict] loading"),
    ('t.nn.Linear(1,1).load_state_dict({**t.nn.Linear(1,1).state_dict(), "x": t.ones(1)})',
     RuntimeError, "[load_state_dict] loading"),
    ("t.nn.Linear(1,1).load_state_dict(t.nn.Linear(2,1).state_dict())", RuntimeError, "[load_state_dict] 1 2"),
    ("t.nn.Linear(1,1).load_state_dict(3)", TypeError, "[load_state_dict] xpected"),
    ('t.nn.Sequential(t.nn.ReLU()).get_submodule("5")', AttributeError, "[get_submodule] 5 equential"),
    ("t.nn.Linear(1,1).to(t.int64)", TypeError, "[to] int64 accepts"),
    ("t.nn.Parameter(t.ones(2,dtype=t.int64))", RuntimeError, "[requires_grad] int64 floating"),
    ("t.optim.SGD([t.ones(1,requires_grad=True)], lr=-1.)", ValueError, "[optim] -1 0"),
    ("t.optim.SGD([t.ones(1,requires_grad=True)], lr=1., momentum=-1)", ValueError, "[optim] -1 0"),
    ("t.optim.SGD([t.ones(1,requires_grad=True)], lr=1., nesterov=True)", ValueError, "[SGD] 0 esterov"),
    ("t.optim.SGD([], lr=1.)", ValueError, "[SGD] list optimizer"),
    ("t.optim.SGD(t.ones(1,requires_grad=True), lr=1.)", TypeError, "[SGD] params"),
    ("t.optim.SGD([3], lr=1.)", TypeError, "[SGD.add_param_group] optimizer"),
    ("t.optim.SGD([t.ones(1,requires_grad=True)*2], lr=1.)", ValueError, "[SGD.add_param_group] optimize"),
    ('(lambda p: t.optim.SGD([{"params":[p]},{"params":[p]}], lr=1.))(t.ones(1,requires_grad=True))',
     ValueError, "[SGD.add_param_group] parameters"),
    ("t.optim.Adam([t.ones(1,requires_grad=True)], betas=(1.0,0.9))", ValueError, "[Adam] 0 1"),
    ("t.optim.Adam([t.ones(1,requires_grad=True)], eps=-1)", ValueError, "[optim] -1 0"),
    ("t.optim.AdamW([t.ones(1,requires_grad=True)], weight_decay=-1)", ValueError, "[optim] -1 0"),
    ("t.optim.SGD([t.ones(1,requires_grad=True)], "
     "lr=1.).load_state_dict(t.optim.SGD([t.ones(1,requires_grad=True), t.ones(1,requires_grad=True)], "
     "lr=1.).state_dict())",
     ValueError, "[SGD.load_state_dict] loaded"),
    ('t.optim.SGD([t.ones(1,requires_grad=True)], lr=1.).load_state_dict({"state":{}, "param_groups":[]})',
     ValueError, "[SGD.load_state_dict] loaded"),
    ("t.optim.lr_scheduler.StepLR(3, 1)", TypeError, "[StepLR] ptimizer"),
    ("t.optim.lr_scheduler.LambdaLR(t.optim.SGD([t.ones(1,requires_grad=True)], lr=1.), [lambda e:1, lambda e:1])",
     ValueError, "[LambdaLR] 1 2"),
    ("t.optim.lr_scheduler.OneCycleLR(t.optim.SGD([t.ones(1,requires_grad=True)], lr=1.), 1.)",
     ValueError, "[OneCycleLR] define"),
    ("t.optim.lr_scheduler.LinearLR(t.optim.SGD([t.ones(1,requires_grad=True)], lr=1.), start_factor=2.)",
     ValueError, "[LinearLR] 0 1"),
    ("t.optim.lr_scheduler.SequentialLR(t.optim.SGD([t.ones(1,requires_grad=True)], lr=1.), [], [])",
     ValueError, "[SequentialLR] expects"),
    ('t.nn.utils.clip_grad_norm_((lambda p: (setattr(p,"grad",t.tensor([float("nan")])), '
     'p)[1])(t.ones(1,requires_grad=True)), 1., error_if_nonfinite=True)',
     RuntimeError, "[get_total_norm] 2 0"),
    ("t.utils.data.TensorDataset(t.ones(2), t.ones(3))", AssertionError, "[TensorDataset] 2 3"),
    ("t.utils.data.DataLoader(t.utils.data.TensorDataset(t.ones(2)), batch_size=0)",
     ValueError, "[BatchSampler] 0 batch_size"),
    ("t.utils.data.DataLoader(t.utils.data.TensorDataset(t.ones(2)), shuffle=True, sampler=[0])",
     ValueError, "[DataLoader] sampler"),
    ("t.utils.data.DataLoader(t.utils.data.TensorDataset(t.ones(2)), num_workers=-1)", ValueError, "[DataLoader] -1 0"),
    ("list(t.utils.data.DataLoader(t.utils.data.TensorDataset(t.ones(0,2)), shuffle=True))",
     ValueError, "[RandomSampler] 0 num_samples"),
    ("list(t.utils.data.DataLoader([t.ones(2), t.ones(3)], batch_size=2))", RuntimeError, "[default_collate] list 2"),
    ("list(t.utils.data.DataLoader([object()], batch_size=1))", TypeError, "[default_collate] contain"),
    ("t.utils.data.DataLoader([1], prefetch_factor=2)", ValueError, "[DataLoader] 2 0"),
    ("t.utils.data.DataLoader([1], timeout=-1)", ValueError, "[DataLoader] -1 timeout"),
    ("t.utils.data.RandomSampler([1], num_samples=-1)", ValueError, "[RandomSampler] -1 num_samples"),
    ("t.utils.data.random_split([1,2,3],[1,1])", ValueError, "[random_split] 1 2"),
    ("t.utils.data.WeightedRandomSampler([1.], -1)", ValueError, "[WeightedRandomSampler] -1 num_samples"),
    ("t.utils.data.BatchSampler([1], 0, False)", ValueError, "[BatchSampler] 0 batch_size"),
    ("t.utils.data.ConcatDataset([])", AssertionError, "[ConcatDataset] datasets"),
    ('t.Generator(device="magic")', RuntimeError, "[device] expected"),
    ("t.set_rng_state(t.ones(2))", TypeError, "[set_state] float32 expected"),
    ("t.set_default_dtype(t.int64)", TypeError, "[set_default_dtype] int64 floating"),
    ('type("Fn",(t.autograd.Function,),{"forward": staticmethod(lambda ctx,x: '
     'x*2)}).apply(t.ones(1,requires_grad=True)).sum().backward()',
     NotImplementedError, "[Function] implement"),
    ('type("Fn",(t.autograd.Function,),{"forward": staticmethod(lambda ctx,x: x*2), "backward": '
     'staticmethod(lambda ctx,g: (g,g))}).apply(t.ones(1,requires_grad=True)).sum().backward()',
     RuntimeError, "[Fn] 1 2"),
    ('type("Fn",(t.autograd.Function,),{"forward": staticmethod(lambda ctx,x: x*2), "backward": '
     'staticmethod(lambda ctx,g: 3)}).apply(t.ones(1,requires_grad=True)).sum().backward()',
     RuntimeError, "[Fn] 0 expected"),
    ("t.autograd.functional.jacobian(lambda x: 3, t.ones(2))", TypeError, "[jacobian] expected"),
    ("t.autograd.functional.hessian(lambda x: x**2, t.ones(2))", RuntimeError, "[hessian] 2 function"),
    ("t.autograd.functional.vjp(lambda x: x**2, t.ones(2), t.ones(3))", RuntimeError, "[vjp] 2 3"),
    ("(lambda x: (t.ones(2,requires_grad=True)*x).sum())((lambda: t.inference_mode()(lambda: t.ones(2))())())",
     RuntimeError, "[Mul] inference"),
    ("t.autograd.gradcheck(t.exp, (t.ones(2,dtype=t.float64),))", ValueError, "[gradcheck] expects"),
    ("t.ones(2,3).repeat(2)", RuntimeError, "[repeat] 2 3"),
    ("t.ones(3).repeat_interleave(t.tensor([1,2]))", RuntimeError, "[repeat_interleave] 3 2"),
    ("t.ones(3).repeat_interleave(-1)", RuntimeError, "[repeat_interleave] repeats"),
    ("t.ones(3).tril()", RuntimeError, "[tril] 2 1"),
    ("t.diag(t.ones(2,2,2))", RuntimeError, "[diag] 1 2"),
    ("t.roll(t.ones(2,3), 1, 5)", IndexError, "[roll] -2 1"),
    ("t.ones(2,3).flip(5)", IndexError, "[flip] -2 1"),
    ("t.ones(2,3).movedim(0,5)", IndexError, "[movedim] -2 1"),
    ("t.ones(3).narrow(0,2,5)", RuntimeError, "[narrow] 2 5"),
    ("t.ones(3).select(0,5)", IndexError, "[select] 5 3"),
    ("t.ones(3).unbind(2)", IndexError, "[unbind] -1 0"),
    ("t.ones(3).copy_(t.ones(4))", RuntimeError, "[copy_] 4 3"),
    ("t.ones(3).masked_select(t.ones(3))", RuntimeError, "[masked_select] float32 bool"),
    ('t.ones(3).norm(p="magic")', RuntimeError, "[norm] number"),
    ("t.ones(2).logsumexp(3)", IndexError, "[logsumexp] -1 0"),
    ("t.ones(2).prod(3)", IndexError, "[prod] -1 0"),
    ("t.lerp(t.ones(2), t.ones(3), 0.5)", RuntimeError, "[Lerp] float32 2"),
    ("t.maximum(t.ones(2,dtype=t.complex64), t.ones(2))", RuntimeError, "[maximum] implemented"),
    ("t.ones(2,dtype=t.complex64) < 1", NotImplementedError, "[Lt] implemented"),
    ("t.ones(2,dtype=t.complex64).sort()", RuntimeError, "[sort] complex64 support"),
    ("t.ones(2,dtype=t.complex64).floor()", NotImplementedError, "[Floor] complex64 2"),
    ("float(t.tensor(1+2j))", RuntimeError, "[float] 1 complex"),
    ("(t.ones(1,dtype=t.complex64,requires_grad=True)*2).sum().backward()",
     RuntimeError, "[backward] complex64 implicitly"),
    ("F.one_hot(t.tensor([1.]), 3)", RuntimeError, "[one_hot] int64 float32"),
    ("F.normalize(t.ones(2), dim=4)", IndexError, "[vector_norm] -1 0"),
    ("t.ones(2,3).size(3)", IndexError, "[size] -2 1"),
    ("t.hstack([])", RuntimeError, "[hstack] list expected"),
    ("t.tensor_split(t.ones(3), 0)", RuntimeError, "[tensor_split] 0 number"),
    ('t.meshgrid(t.ones(2,2), t.ones(2), indexing="ij")', RuntimeError, "[meshgrid] 0 1"),
    ("t.nn.init.xavier_uniform_(t.ones(3))", ValueError, "[init] 2 1"),
    ('t.nn.init.kaiming_uniform_(t.ones(3,3), mode="magic")', ValueError, "[init] supported"),
    ('t.nn.init.calculate_gain("magic")', ValueError, "[calculate_gain] nsupported"),
    ("t.nn.init.orthogonal_(t.ones(3))", ValueError, "[orthogonal_] 2 1"),
    ("t.iinfo(t.float32)", TypeError, "[iinfo] float32 integer"),
    ("t.finfo(t.int32)", TypeError, "[finfo] int32 floating"),
    ('t.Tensor("a")', TypeError, "[Tensor] str expected"),
    ("t.ones(2) + None", TypeError, "[Add] float32 NoneType"),
    ("t.sum(t.ones(2), foo=1)", TypeError, "sum foo"),
    ("t.matmul(t.ones(2))", TypeError, "matmul other"),
    ("t.ones(2).nothing", AttributeError, "Tensor nothing"),
    ("t.nothing", AttributeError, "nothing"),
    ("t.nn.Linear(1, 1).nothing", AttributeError, "Linear nothing"),
    ("t.full((2,))", TypeError, "full fill_value"),
    ("~t.ones(2)", TypeError, "[bitwise_not] float32"),
    ("F.layer_norm(t.ones(2).long(), (2,))", NotImplementedError, "[layer_norm] int64"),
    ("F.mse_loss(t.ones(2).long(), t.ones(2).long())", NotImplementedError, "[mse_loss] int64 .float()"),
    ("F.dropout(t.ones(2).long(), 0.5)", RuntimeError, "[dropout] int64 .float()"),
]

VALUES = [  # what only the values show: not asked on a GPU, where looking would wait for the device
    ("t.ones(3)[t.tensor([1,7])]", IndexError, "[getitem] 7 0"),
    ("t.ones(3).__setitem__(t.tensor([5]), 1.)", IndexError, "[getitem] 5 0"),
    ("t.ones(3).gather(0, t.tensor([5]))", RuntimeError, "[gather] 5 0"),
    ("t.zeros(3).scatter(0, t.tensor([5]), t.ones(1))", RuntimeError, "[scatter] 5 0"),
    ("t.ones(3).index_select(0, t.tensor([5]))", IndexError, "[index_select] 5 0"),
    ("t.ones(3).index_add(0, t.tensor([0,9]), t.ones(2))", IndexError, "[index_add] 9 0"),
    ("F.embedding(t.tensor([7]), t.ones(3,2))", IndexError, "[embedding] 7 3"),
    ("F.embedding(t.tensor([-1]), t.ones(3,2))", IndexError, "[embedding] -1 3"),
    ("F.cross_entropy(t.ones(2,3), t.tensor([1,3]))", IndexError, "[cross_entropy] 3 bounds"),
    ("F.nll_loss(t.ones(2,3), t.tensor([1,-5]))", IndexError, "[nll_loss] -5 bounds"),
    ("F.binary_cross_entropy(t.tensor([2.]), t.tensor([1.]))", RuntimeError, "[binary_cross_entropy] 0 1"),
    ("F.one_hot(t.tensor([5]), 3)", RuntimeError, "[one_hot] 5 3"),
    ("t.tensor([5]) // 0", RuntimeError, "[FloorDivide] ZeroDivisionError"),
    ("t.tensor([5]) % t.tensor([0])", RuntimeError, "[Remainder] ZeroDivisionError"),
    ("t.tensor([5]).fmod(0)", RuntimeError, "[Fmod] ZeroDivisionError"),
]

OURS = [  # where PyTorch accepts, has no such thing, or raises what says less
    ("t.ones(3)['a']", IndexError, "[getitem] str"),
    ("t.from_dlpack(3)", TypeError, "[from_dlpack] int"),
    ("t.ones(2, device='cuda:99')", RuntimeError, "[device] cuda"),
    ("t.save({'a': t.ones(1)}, '/nonexistent/x.safetensors')", FileNotFoundError, "[save] x.safetensors"),
    ("t.load('/nonexistent/x.safetensors')", FileNotFoundError, "[load] x.safetensors"),
    ("t.autograd.grad(t.ones(2), t.ones(2), is_grads_batched=True)", NotImplementedError, "[grad] is_grads_batched"),
]

DEVICES = [  # c: ones on the CPU, s: ones on the simulated device
    ("s(3) + c(3)", RuntimeError, "[Add] sim:0 cpu .to(device)"),
    ("s(3).add_(c(3))", RuntimeError, "[Add] sim:0 cpu"),
    ("s(2, 3) @ c(3, 2)", RuntimeError, "sim:0 cpu .to(device)"),
    ("t.cat([s(2), c(2)])", RuntimeError, "[Cat] sim:0 cpu"),
    ("t.where(s(2) > 0, c(2), s(2))", RuntimeError, "[Where] sim:0 cpu"),
    ("t.nn.Linear(3, 4, device='cpu')(s(2, 3))", RuntimeError, "[Linear] sim:0 cpu"),
    ("F.conv2d(s(1, 1, 4, 4), c(1, 1, 3, 3))", RuntimeError, "[conv2d] sim:0 cpu"),
    ("F.layer_norm(s(2, 3), (3,), c(3), c(3))", RuntimeError, "[LayerNorm] sim:0 cpu"),
    ("F.embedding(s(1).long(), c(3, 2))", RuntimeError, "[embedding] sim:0 cpu"),
    ("F.cross_entropy(s(2, 3), c(2).long())", RuntimeError, "[CrossEntropy] sim:0 cpu"),
    ("F.scaled_dot_product_attention(*[s(1, 1, 2, 4)] * 3, attn_mask=c(2, 2))", RuntimeError, "[Attention] sim:0 cpu"),
    ("s(3).gather(0, c(1).long())", RuntimeError, "[gather] sim:0 cpu .to(device)"),
    ("s(3).scatter(0, c(1).long(), s(1))", RuntimeError, "[scatter] sim:0 cpu"),
    ("s(3).index_select(0, c(1).long())", RuntimeError, "[index_select] sim:0 cpu"),
    ("s(3).masked_fill(c(3).bool(), 0.0)", RuntimeError, "[masked_fill] sim:0 cpu"),
    ("s(3).masked_select(c(3).bool())", RuntimeError, "[masked_select] sim:0 cpu"),
    ("t.searchsorted(s(3), c(1))", RuntimeError, "[searchsorted] sim:0 cpu"),
    ("c(3)[s(1).long()]", RuntimeError, "[getitem] sim:0 cpu"),
    ("s(3).__setitem__(0, c(2))", RuntimeError, "[setitem] sim:0 cpu"),
    ("c(3) + s(1)[0]", RuntimeError, "[Add] sim:0 cpu"),
    ("(s(2, requires_grad=True) * 2).backward(c(2))", RuntimeError, "[backward] sim:0 cpu"),
    ("setattr(s(2), 'grad', c(2))", RuntimeError, "[grad] sim:0 cpu"),
    ("s(2).numpy()", TypeError, "[numpy] sim:0 .cpu()"),
    ("t.multinomial(s(3), 2, generator=t.Generator('cpu'))", RuntimeError, "[random] sim cpu"),
    ("t.ones(2, device='sim:7')", RuntimeError, "[device] sim:7"),
]

EMPTY = [  # not bad at all
    "t.ones(0).sum()", "t.ones(0).prod()", "t.ones(0).mean().isnan()", "t.ones(0, 3).sum(0)",
    "t.ones(0, 3).softmax(0)",
    "t.ones(0).sort()[0]", "t.ones(0).topk(0)[0]", "t.ones(0).any()", "t.ones(0).all()", "t.ones(0).norm()",
    "t.ones(0).logsumexp(0)", "t.ones(0, 3).cumsum(0)", "t.ones(3, 0).max(0)[0]", "t.ones(0, 3) @ t.ones(3, 0)",
    "t.ones(2, 0) @ t.ones(0, 2)", "F.linear(t.ones(0, 3), t.ones(2, 3))", "t.ones(0, 3).reshape(3, 0)",
    "t.cat([t.ones(0), t.ones(2, 3)])", "t.stack([t.ones(0)] * 2)", "t.ones(0, 3)[t.ones(0, dtype=t.int64)]",
    "t.ones(3)[t.zeros(3, dtype=t.bool)]", "F.conv2d(t.ones(0, 3, 5, 5), t.ones(2, 3, 3, 3))",
    "F.max_pool2d(t.ones(0, 1, 4, 4), 2)", "F.layer_norm(t.ones(0, 3), (3,))", "t.nn.BatchNorm1d(3)(t.ones(0, 3))",
    "F.embedding(t.ones(0, dtype=t.int64), t.ones(2, 3))", "F.scaled_dot_product_attention(*[t.ones(0, 2, 3, 4)] * 3)",
    "F.mse_loss(t.ones(0), t.ones(0)).isnan()", "F.cross_entropy(t.ones(0, 3), t.ones(0).long()).isnan()",
    "F.dropout(t.ones(0))", "t.einsum('ij,jk->ik', t.ones(0, 3), t.ones(3, 2))",
    "t.randperm(0)", "t.ones(0).split(2)[0]",
    "t.ones(0, 3).view(-1, 3)", "t.ones(0).tolist()", "list(t.ones(0, 3))",
    "list(t.utils.data.DataLoader(t.utils.data.TensorDataset(t.ones(0, 2))))",
    "len(t.utils.data.TensorDataset(t.ones(0, 2)))",
    "len(t.utils.data.DataLoader(t.utils.data.TensorDataset(t.ones(0))))",
]


def names(t):
    return {"t": t, "F": t.nn.functional}


def torch_or_none():
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch


def raised(program, t, **more):
    with pytest.raises(Exception) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning if t is tt else Warning)
        eval(program, names(t) | more)
    return caught.value


def builtin(error):
    return next(c for c in type(error).__mro__ if c.__module__ == "builtins")


def check(error, expected, words):
    assert type(error) is expected or builtin(error) is expected, f"{type(error).__name__}: {error}"
    missing = [w for w in words.split() if w.replace("~", " ") not in str(error)]
    assert not missing, f"{missing} not in: {error}"
    assert words[0] != "[" or re.match(r"'?\[[\w.: ]+\] .", str(error)), f"no operator in front: {error}"


@pytest.mark.parametrize("program, expected, words", BAD)
def test_bad_input(program, expected, words, device):
    with tt.device(device):
        check(raised(program, tt), expected, words)
    if torch_or_none() is not None:
        assert builtin(raised(program, torch_or_none())) is expected, "not PyTorch's class"


@pytest.mark.parametrize("program, expected, words", VALUES)
def test_bad_values(program, expected, words):
    with tt.device("cpu"):
        check(raised(program, tt), expected, words)
    if torch_or_none() is not None:
        assert builtin(raised(program, torch_or_none())) is expected, "not PyTorch's class"


@pytest.mark.parametrize("program, expected, words", OURS)
def test_bad_input_of_our_own(program, expected, words):
    check(raised(program, tt), expected, words)


@pytest.mark.parametrize("program, expected, words", DEVICES)
def test_devices_do_not_mix(program, expected, words):
    ones = {"c": lambda *n, **k: tt.ones(*n, device="cpu", **k), "s": lambda *n, **k: tt.ones(*n, device="sim", **k)}
    check(raised(program, tt, **ones), expected, words)


@pytest.mark.parametrize("program", EMPTY)
def test_empty_tensors_are_fine(program, device, torch):
    with tt.device(device):
        ours = eval(program, names(tt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = eval(program, names(torch))
    if isinstance(theirs, torch.Tensor):
        assert tuple(ours.shape) == tuple(theirs.shape)
        assert str(ours.dtype).rpartition(".")[2] == str(theirs.dtype).rpartition(".")[2]
        np.testing.assert_array_equal(ours.detach().cpu().numpy(), theirs.detach().numpy())
    else:
        assert ours == theirs


def test_nothing_is_lost_by_a_refused_change(device):
    """A call that raises leaves tensors, versions and gradients as they were."""
    with tt.device(device):
        x = tt.arange(3.0)
        for bad in (lambda: x.add_(tt.ones(4)), lambda: x.__setitem__(slice(0, 2), tt.ones(3)), lambda: x.div_(None),
                    lambda: x.copy_(tt.ones(5))):
            with pytest.raises((RuntimeError, TypeError)):
                bad()
        assert x.tolist() == [0, 1, 2] and x._version == 0
        w = tt.ones(2, requires_grad=True)
        (w * 2).sum().backward()
        with pytest.raises(RuntimeError, match="scalar"):
            (w * 2).backward()
        assert w.grad.tolist() == [2, 2]
        loss = (w ** 2).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
        assert w.grad.tolist() == [4, 4]
        net = tt.nn.Linear(2, 1)
        before = net.weight.clone()
        with pytest.raises(RuntimeError, match="size mismatch"):
            net.load_state_dict({"weight": tt.ones(3, 3), "bias": tt.ones(1)})
        assert net.weight.equal(before)


@pytest.mark.parametrize("content", [
    b"", b"\x80\x04not a checkpoint", b"PK\x03\x04" + bytes(40), bytes(7), bytes(range(256)),
])
def test_unknown_files_are_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"^\[load\] .*model\.safetensors") as caught:
        tt.load(path)
    assert isinstance(caught.value, (RuntimeError, ValueError, EOFError)), type(caught.value)


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    import os

    path = tmp_path / "model.safetensors"
    tt.save({"w": tt.ones(2)}, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^\[save\] .*No space left.*room") as caught:
        tt.save({"w": tt.zeros(2)}, path)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert tt.load(path)["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
