"""A module's values by name: `state_dict`, `load_state_dict` and their hooks. A base of Module."""
from __future__ import annotations

import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Mapping

from ..autograd.modes import no_grad
from ..tensor import Tensor
from .hooks import add
from .parameter import Parameter

__all__ = ["Stateful"]

EXTRA = "_extra_state"


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    __slots__ = ()

    def __repr__(self):
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()

    __str__ = __repr__


class _WithModule:
    """A hook that gets its module first, without keeping it alive."""

    def __init__(self, hook, module):
        self.hook, self.module = hook, weakref.ref(module)

    def __call__(self, *args):
        return self.hook(self.module(), *args)

    def __reduce__(self):
        return _WithModule, (self.hook, self.module())


class _StateDict(OrderedDict):
    """An ordered dict that carries the modules' versions in `_metadata`."""

    _metadata: dict


class Stateful:
    """The saving and loading half of Module."""

    _version = 1

    def _init_state_hooks(self):
        put = object.__setattr__
        put(self, "_state_dict_pre_hooks", OrderedDict())
        put(self, "_state_dict_hooks", OrderedDict())
        put(self, "_load_state_dict_pre_hooks", OrderedDict())
        put(self, "_load_state_dict_post_hooks", OrderedDict())

    def get_extra_state(self):
        """What `state_dict` keeps beside parameters and buffers; subclasses may define it."""
        raise RuntimeError(f"[{type(self).__name__}] get_extra_state is not defined in the subclass")

    def set_extra_state(self, state) -> None:
        """Take what `get_extra_state` returned; define it with that."""
        raise RuntimeError(f"[{type(self).__name__}] set_extra_state is not defined in the subclass")

    # saving

    def register_state_dict_pre_hook(self, hook):
        """Call `hook(module, prefix, keep_vars)` before `state_dict`."""
        return add(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook):
        """Call `hook(module, state_dict, prefix, local_metadata)` after `state_dict`; it changes the dict in place."""
        return add(self._state_dict_hooks, hook)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        saved = {**self._parameters, **{
            name: b for name, b in self._buffers.items() if name not in self._non_persistent_buffers_set}}
        for name, value in saved.items():
            if value is not None:
                destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not Stateful.get_extra_state:
            destination[prefix + EXTRA] = self.get_extra_state()

    def state_dict(self, *, destination=None, prefix: str = "", keep_vars: bool = False):
        """Parameters and persistent buffers by dotted name, sharing memory; detached unless `keep_vars`."""
        if destination is None:
            destination = _StateDict()
            destination._metadata = OrderedDict()
        metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = metadata
        for hook in self._state_dict_pre_hooks.values():
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():
            if hook(self, destination, prefix, metadata) is not None:
                raise RuntimeError("[state_dict] state_dict post-hook must return None")
        return destination

    # loading

    def register_load_state_dict_pre_hook(self, hook):
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)`
        before this module's values are loaded."""
        return add(self._load_state_dict_pre_hooks, _WithModule(hook, self))

    def register_load_state_dict_post_hook(self, hook):
        """Call `hook(module, incompatible_keys)` after loading; it may change the lists in place."""
        return add(self._load_state_dict_post_hooks, hook)

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """Copy values by name into parameters and buffers (with `assign`, put the given tensors in their place).

        Returns (missing_keys, unexpected_keys). Raises: TypeError for other than a mapping; RuntimeError listing
        every size mismatch and, if `strict`, every missing and unexpected key.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"[load_state_dict] Expected state_dict to be dict-like, got {type(state_dict)}.")
        metadata = getattr(state_dict, "_metadata", None)
        state_dict = OrderedDict(state_dict)
        found = _IncompatibleKeys([], [])
        errors: list[str] = []
        self._load_tree(state_dict, "", metadata or {}, assign, found, errors)
        if strict:
            for what, keys in (("Unexpected", found.unexpected_keys), ("Missing", found.missing_keys)):
                if keys:
                    errors.insert(0, f"{what} key(s) in state_dict: " + ", ".join(f'"{k}"' for k in keys) + ". ")
        if errors:
            raise RuntimeError(
                f"[load_state_dict] Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors)
            )
        return found

    def _load_tree(self, state_dict, prefix, metadata, assign, found, errors):
        local = dict(metadata.get(prefix[:-1], {}))
        if assign:
            local["assign_to_params_buffers"] = True
        self._load_from_state_dict(
            state_dict, prefix, local, True, found.missing_keys, found.unexpected_keys, errors
        )
        for name, child in self._modules.items():
            if child is not None:
                start = f"{prefix}{name}."
                part = {k: v for k, v in state_dict.items() if k.startswith(start)}
                child._load_tree(part, start, metadata, assign, found, errors)
        for hook in self._load_state_dict_post_hooks.values():
            if hook(self, found) is not None:
                raise AssertionError("[load_state_dict] Hooks registered with ``register_load_state_dict_post_hook`` "
                                     "are not expected to return new values: change incompatible_keys in place")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        own = {**self._parameters, **{
            name: b for name, b in self._buffers.items() if name not in self._non_persistent_buffers_set}}
        own = {name: value for name, value in own.items() if value is not None}
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, held in own.items():
            key = prefix + name
            if key in state_dict:
                error = self._load_one(name, held, key, state_dict[key], assign)
                if error is not None:
                    error_msgs.append(error)
            elif strict:
                missing_keys.append(key)
        extra = prefix + EXTRA
        if type(self).set_extra_state is not Stateful.set_extra_state:
            if extra in state_dict:
                self.set_extra_state(state_dict[extra])
            elif strict:
                missing_keys.append(extra)
        elif strict and extra in state_dict:
            unexpected_keys.append(extra)
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and key != extra:
                    first, dot, _ = key[len(prefix):].partition(".")
                    if first not in (self._modules if dot else own):
                        unexpected_keys.append(key)

    def _load_one(self, name, held, key, value, assign):
        """Copy or assign one value; the message if that cannot be done."""
        if not isinstance(value, Tensor):
            return (f'While copying the parameter named "{key}", expected Tensor or Tensor-like object from checkpoint '
                    f"but received {type(value)}")
        if value.shape == (1,) and held.shape == ():
            value = value[0]
        if value.shape != held.shape:
            return (f"size mismatch for {key}: copying a param with shape {_size(value)} from checkpoint, the shape in "
                    f"current model is {_size(held)}.")
        try:
            with no_grad():
                if not assign:
                    held.copy_(value)
                elif isinstance(held, Parameter):
                    if not isinstance(value, Parameter):
                        value = Parameter(value, requires_grad=held.requires_grad)
                    setattr(self, name, value.requires_grad_(held.requires_grad))
                else:
                    setattr(self, name, value)
        except Exception as e:  # one message for all that is wrong with a checkpoint
            return (f'While copying the parameter named "{key}", whose dimensions in the model are {_size(held)} and '
                    f"whose dimensions in the checkpoint are {_size(value)}, an exception occurred : {e.args}.")
        return None


def _size(tensor):
    return f"Size({list(tensor.shape)})"
