"""The base of all optimizers: parameter groups, state, hooks, `state_dict`, as torch.optim.Optimizer."""
from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from copy import deepcopy
from itertools import chain

from ..autograd.hooks import RemovableHandle
from ..autograd.modes import enable_grad
from ..tensor import Tensor

__all__ = ["Optimizer", "required", "register_optimizer_step_pre_hook", "register_optimizer_step_post_hook"]

_pre_hooks: OrderedDict = OrderedDict()
_post_hooks: OrderedDict = OrderedDict()


class _Required:
    def __repr__(self):
        return "<required parameter>"


required = _Required()


def register_optimizer_step_pre_hook(hook) -> RemovableHandle:
    """Call `hook(optimizer, args, kwargs)` before every optimizer's step; it may return new (args, kwargs)."""
    return _register(_pre_hooks, hook)


def register_optimizer_step_post_hook(hook) -> RemovableHandle:
    """Call `hook(optimizer, args, kwargs)` after every optimizer's step."""
    return _register(_post_hooks, hook)


def _register(table, hook, prepend=False):
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


def _with_hooks(step):
    """`step` with the step hooks around it."""

    @functools.wraps(step)
    def hooked(self, *args, **kwargs):
        if _pre_hooks or self._optimizer_step_pre_hooks:
            for hook in (*_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()):
                changed = hook(self, args, kwargs)
                if changed is not None:
                    if not (isinstance(changed, tuple) and len(changed) == 2):
                        raise RuntimeError(
                            f"[{type(self).__name__}.step] a pre-hook must return None or a tuple of "
                            f"(new_args, new_kwargs), but got {changed}"
                        )
                    args, kwargs = changed
        result = step(self, *args, **kwargs)
        if self._opt_called is False:  # a scheduler watches the order of calls
            self._opt_called = True
        if _post_hooks or self._optimizer_step_post_hooks:
            for hook in (*self._optimizer_step_post_hooks.values(), *_post_hooks.values()):
                hook(self, args, kwargs)
        return result

    return hooked


class Optimizer:
    """Holds parameter groups and per-parameter state; subclasses define `step`. As torch.optim.Optimizer.

    `params` is an iterable of tensors, of (name, tensor) pairs, or of dicts with a key "params" and options of
    that group. Options of a group, `lr` among them, are plain values that may be assigned at any time.
    Raises: TypeError for other parameters, ValueError for none, duplicates or non-leaf tensors.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _with_hooks(cls.__dict__["step"])

    def __init__(self, params, defaults):
        self.defaults = defaults
        self._init_hooks()
        if isinstance(params, Tensor):
            raise TypeError(
                f"[{type(self).__name__}] params argument given to the optimizer should be an iterable of Tensors or "
                "dicts, but got Tensor"
            )
        self.state: defaultdict = defaultdict(dict)
        self.param_groups: list[dict] = []
        groups = list(params)
        if not groups:
            raise ValueError(f"[{type(self).__name__}] optimizer got an empty parameter list: pass module.parameters()")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def _init_hooks(self):
        self._optimizer_step_pre_hooks: OrderedDict = OrderedDict()
        self._optimizer_step_post_hooks: OrderedDict = OrderedDict()
        self._optimizer_state_dict_pre_hooks: OrderedDict = OrderedDict()
        self._optimizer_state_dict_post_hooks: OrderedDict = OrderedDict()
        self._optimizer_load_state_dict_pre_hooks: OrderedDict = OrderedDict()
        self._optimizer_load_state_dict_post_hooks: OrderedDict = OrderedDict()
        self._opt_called: bool | None = None

    # what a copy or a pickle carries: hooks may be closures, and what a subclass caches is made again
    def __getstate__(self):
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state):
        self.__dict__.update(state)
        if "_optimizer_step_pre_hooks" not in self.__dict__:
            self._init_hooks()

    def __repr__(self):
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            text += "".join(f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params")
        return text + ")"

    def step(self, closure=None):
        """Update the parameters once; a closure is called with gradients enabled and its loss returned."""
        raise NotImplementedError(f"[{type(self).__name__}.step] not implemented: define step in the subclass")

    @staticmethod
    def _evaluate(closure):
        if closure is None:
            return None
        with enable_grad():
            return closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or to zero in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if set_to_none:
                    p.grad = None
                else:
                    # a gradient with a graph of its own (create_graph=True) is cut from it
                    p.grad = p.grad.detach()
                    p.grad._array[...] = 0
                    p.grad._bump()

    def add_param_group(self, param_group: dict) -> None:
        """Add a group: {"params": tensors, option: value, ...}.

        Raises: TypeError for other than a dict, a set of parameters, or other than tensors; ValueError for
        non-leaf tensors, a parameter in two groups, or a missing required option.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"[{type(self).__name__}.add_param_group] param_group must be a dict, but got "
                            f"{type(param_group)}")
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(
                f"[{type(self).__name__}.add_param_group] optimizer parameters need to be organized in ordered "
                "collections, but the ordering of tensors in sets will change between runs. Please use a list instead."
            )
        params = list(params)
        names = []
        if params and isinstance(params[0], tuple):
            names = [name for name, _ in params]
            params = [p for _, p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"[{type(self).__name__}.add_param_group] optimizer can only optimize Tensors, but "
                                f"one of the params is {type(p).__name__}")
            if not self.defaults.get("differentiable", False) and not p.is_leaf:
                raise ValueError(f"[{type(self).__name__}.add_param_group] can't optimize a non-leaf Tensor: "
                                 "pass the leaf that it was computed from, or detach().requires_grad_()")
        if len({id(p) for p in params}) != len(params):
            raise ValueError("[add_param_group] a parameter appears twice in one group: pass each parameter once")
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in known for p in params):
            raise ValueError(f"[{type(self).__name__}.add_param_group] some parameters appear in more than one "
                             "parameter group")
        if self.param_groups and ("param_names" in self.param_groups[0]) != bool(names):
            raise ValueError(
                f"[{type(self).__name__}.add_param_group] all optimizer param groups should be with/without names. "
                f"cannot add param group {'with' if names else 'without'} names to the optimizer"
            )
        group = {**param_group, "params": params}
        if names:
            group["param_names"] = names
        for name, default in self.defaults.items():
            if default is required and name not in group:
                raise ValueError(f"[{type(self).__name__}.add_param_group] parameter group didn't specify a value of "
                                 f"required optimization parameter {name}")
            group.setdefault(name, default)
        self.param_groups.append(group)

    def state_dict(self) -> dict:
        """{"state": {index: {...}}, "param_groups": [{..., "params": [indices]}]}; tensors are not copied."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        index = {id(p): i for i, p in enumerate(chain.from_iterable(g["params"] for g in self.param_groups))}
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [index[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        state = {index[id(k)] if isinstance(k, Tensor) else k: v for k, v in self.state.items()}
        result = {"state": state, "param_groups": groups}
        for hook in self._optimizer_state_dict_post_hooks.values():
            changed = hook(self, result)
            if changed is not None:
                result = changed
        return result

    def load_state_dict(self, state_dict: dict) -> None:
        """Take state and options from `state_dict()` of an optimizer with groups of the same sizes.

        Raises: ValueError when the groups differ in number or size.
        """
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            if changed is not None:
                state_dict = changed
        groups, saved = self.param_groups, deepcopy(state_dict["param_groups"])
        if len(groups) != len(saved):
            raise ValueError(f"[{type(self).__name__}.load_state_dict] loaded state dict has a different number of "
                             "parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(groups, saved, strict=True)):
            raise ValueError(
                f"[{type(self).__name__}.load_state_dict] loaded state dict contains a parameter group that doesn't "
                "match the size of optimizer's group"
            )
        by_index = dict(zip(
            chain.from_iterable(s["params"] for s in saved),
            chain.from_iterable(g["params"] for g in groups),
            strict=True,
        ))
        state: defaultdict = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in by_index:
                param = by_index[key]
                state[param] = self._take(param, value)
            else:
                state[key] = value
        for group, loaded in zip(groups, saved, strict=True):
            loaded["params"] = group["params"]
            if "param_names" in group:
                loaded.setdefault("param_names", group["param_names"])
        self.__setstate__({"state": state, "param_groups": saved})
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _take(self, param, value, key=None):
        """A loaded value in the dtype and on the device that `param`'s state has; `step` stays as it is."""
        if isinstance(value, Tensor):
            if key == "step":
                return value
            dtype = self._state_dtype(param) if param.dtype.is_floating_point else None
            return value.to(device=param.device, dtype=dtype or value.dtype)
        if isinstance(value, dict):
            return {k: self._take(param, v, k) for k, v in value.items()}
        if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
            return type(value)(self._take(param, v) for v in value)
        return value

    def _state_dtype(self, param):
        return param.dtype

    def register_step_pre_hook(self, hook) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` before each step; it may return new (args, kwargs)."""
        return _register(self._optimizer_step_pre_hooks, hook)

    def register_step_post_hook(self, hook) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return _register(self._optimizer_step_post_hooks, hook)

    def register_state_dict_pre_hook(self, hook, prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer)` before `state_dict`."""
        return _register(self._optimizer_state_dict_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(self, hook, prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` after `state_dict`; it may return another dict."""
        return _register(self._optimizer_state_dict_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(self, hook, prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` before loading; it may return another dict."""
        return _register(self._optimizer_load_state_dict_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(self, hook, prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer)` after loading."""
        return _register(self._optimizer_load_state_dict_post_hooks, hook, prepend)
