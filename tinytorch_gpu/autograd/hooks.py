"""Hooks on tensors and nodes, with PyTorch's names; a handle removes them."""
from __future__ import annotations

import itertools

from ..tensor import Tensor, attach
from .node import Hooks, Node

__all__ = ["RemovableHandle"]

_ids = itertools.count()


class RemovableHandle:
    """Removes a hook: `handle.remove()`, or at the end of a `with` block. As torch.utils.hooks.RemovableHandle."""

    def __init__(self, hooks: dict):
        self._hooks = hooks
        self.id = next(_ids)

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        self._hooks.pop(self.id, None)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.remove()


def _add(hooks: dict, hook) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def _leaf_hooks(tensor) -> Hooks:
    if tensor._hooks is None:
        tensor._hooks = Hooks()
    return tensor._hooks


@attach("register_hook")
def register_hook(self: Tensor, hook) -> RemovableHandle:
    """Call `hook(grad)` when this tensor's gradient is known; a Tensor that it returns replaces the gradient.

    As torch.Tensor.register_hook. Raises: RuntimeError when the tensor does not require grad.
    """
    if not self._req:
        raise RuntimeError("[register_hook] cannot register a hook on a tensor that doesn't require gradient")
    node = self.grad_fn
    if node is None:
        return _add(_leaf_hooks(self).tensor, hook)
    return _add(node.hook_table().tensor.setdefault(self._index, {}), hook)


@attach("register_post_accumulate_grad_hook")
def register_post_accumulate_grad_hook(self: Tensor, hook) -> RemovableHandle:
    """Call `hook(tensor)` after a gradient was added to this leaf's `.grad`. As in PyTorch."""
    if not self._req:
        raise RuntimeError("[register_post_accumulate_grad_hook] the tensor doesn't require gradient")
    if self.grad_fn is not None:
        raise RuntimeError("[register_post_accumulate_grad_hook] post accumulate grad hooks are for leaf tensors only")
    return _add(_leaf_hooks(self).post, hook)


def _register_node_hook(self: Node, fn) -> RemovableHandle:
    """Call `fn(grad_inputs, grad_outputs)` after this node's backward; what it returns replaces grad_inputs."""
    return _add(self.hook_table().post, fn)


def _register_node_prehook(self: Node, fn) -> RemovableHandle:
    """Call `fn(grad_outputs)` before this node's backward; what it returns replaces grad_outputs."""
    return _add(self.hook_table().pre, fn)


Node.register_hook = _register_node_hook
Node.register_prehook = _register_node_prehook
