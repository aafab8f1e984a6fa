"""The engine: walks the graph from the newest node to the oldest, each node once, without recursion.

Creation numbers are a topological order (a node's inputs existed before it), so a heap replaces dependency counts.
"""
from __future__ import annotations

import sys
from heapq import heappop, heappush

import numpy as np

from ..backend import dtypes, streams
from ..backend.device import _by_class, xp_of
from ..backend.kernel import kernels_enabled, use_kernels
from ..tensor import Tensor, attach, make
from . import gradients, modes
from .anomaly import explain, nan_message
from .gradients import accumulate, add, as_array, fit, op, padded, plain_sum
from .modes import state
from .node import AccumulateGrad, Node, endpoint
from .operands import F32, HALF, array_of, wide

__all__ = ["backward", "grad"]


def _reaching(roots, targets):
    """The nodes from which a target node can be reached."""
    seen, stack = set(), list(roots)
    while stack:
        n = stack.pop()
        if n not in seen:
            seen.add(n)
            stack.extend(endpoint(e)[0] for e in n.edges if e is not None)
    found = set()
    for n in sorted(seen, key=lambda n: n.order, reverse=True):  # oldest first
        if n in targets or any(e is not None and endpoint(e)[0] in found for e in n.edges):
            found.add(n)
    return found


def _call_hooks(hooks, value, as_tensor_name):
    """Run tensor hooks on one gradient; a hook may replace it."""
    t = value if value.__class__ is Tensor else make(value)
    for hook in list(hooks.values()):
        result = hook(t)
        if result is not None:
            if not isinstance(result, Tensor):
                raise TypeError(f"[{as_tensor_name}] a tensor hook must return a Tensor or None, got "
                                f"{type(result).__name__}")
            if result.shape != t.shape:
                raise RuntimeError(f"[{as_tensor_name}] a tensor hook has changed the size of the gradient: "
                                   f"{list(t.shape)} to {list(result.shape)}")
            t = result
    return t


def run(roots, create_graph, keep_graph, targets=None, into_leaves=False):
    """Propagate `roots`, [(edge, gradient)], into the leaves; with `targets`, edges, return {(node, output): gradient}
    of those and leave the leaves alone. `into_leaves`: leaves among the targets are added to instead."""
    if create_graph and kernels_enabled():  # what is recorded is the formula, not a kernel
        with use_kernels(False):
            return run(roots, create_graph, keep_graph, targets, into_leaves)
    buffers, heap = {}, []  # node -> gradient, or a list of them for a node with several outputs
    for edge, value in roots:
        _deliver(buffers, heap, edge, value)
    captured, wanted, reaching = {}, {}, None
    if targets is not None:
        for node, i in map(endpoint, targets):
            wanted.setdefault(node, set()).add(i)
        reaching = _reaching([endpoint(e)[0] for e, _ in roots], wanted)
    trip = streams.Trip.plan([array_of(value) for _, value in roots]) if streams.several else None
    outer, state.grad = state.grad, create_graph
    casts, state.autocast = state.autocast, None
    try:
        with dtypes.quiet():  # infinities that meet make NaN without a warning, as in PyTorch
            while heap:
                node = heappop(heap)[1]
                if trip is not None:
                    trip.to(node)
                leaf = node.__class__ is AccumulateGrad
                if leaf:
                    if node.variable._hooks is not None:
                        buffers[node] = _leaf_hooks(node, buffers[node], create_graph)
                elif node.hooks is not None:
                    _tensor_hooks(node, buffers, create_graph)
                if reaching is not None and not (leaf and into_leaves and node in wanted):
                    for i in wanted.get(node, ()):
                        value = buffers[node] if node.metas is None else buffers[node][i]
                        if value is not None:
                            captured[node, i] = _settled(value, node, i)
                    if not any(e is not None and endpoint(e)[0] in reaching for e in node.edges):
                        del buffers[node]
                        continue
                if node.hooks is not None and node.hooks.pre:
                    _pre_hooks(node, buffers, create_graph)
                if leaf:
                    _leaf(node, buffers.pop(node), create_graph)
                else:
                    _step(node, buffers.pop(node), buffers, heap, create_graph, keep_graph, reaching)
    finally:
        state.grad, state.autocast = outer, casts
        if trip is not None:
            trip.back()
    return captured


def _deliver(buffers, heap, edge, value):
    if edge.__class__ is tuple:
        node, i = edge
        slots = buffers.get(node)
        if slots is None:
            slots = buffers[node] = [None] * len(node.metas)
            heappush(heap, (node.order, node))
        slots[i] = value if slots[i] is None else add(slots[i], value)
    elif edge in buffers:
        buffers[edge] = add(buffers[edge], value)
    else:
        buffers[edge] = value
        heappush(heap, (edge.order, edge))


def _settled(value, node, i):
    shape, dtype = (node.shape, node.dtype) if node.metas is None else node.metas[i]
    return fit(value, shape, dtype, node, i)


def _tensor_hooks(node, buffers, create_graph):
    """Tensor hooks and retain_grad of a node, on its buffered gradients."""
    hooks = node.hooks
    slots = [buffers[node]] if node.metas is None else buffers[node]
    for i in set(hooks.tensor) | set(hooks.retain):
        if slots[i] is None:
            continue
        value = _settled(slots[i], node, i)
        if i in hooks.tensor:
            value = _call_hooks(hooks.tensor[i], value, node.name())
        keeper = hooks.retain.get(i)
        keeper = keeper() if keeper is not None else None
        if keeper is not None:
            kept = value if create_graph else make((value._array if isinstance(value, Tensor) else value).copy())
            keeper._grad = kept if keeper._grad is None else op("Add", keeper._grad, kept)
        slots[i] = value if create_graph or not isinstance(value, Tensor) else value._array
    buffers[node] = slots[0] if node.metas is None else slots


def _pre_hooks(node, buffers, create_graph):
    given = _as_tensors([buffers[node]] if node.metas is None else buffers[node])
    for hook in list(node.hooks.pre.values()):
        result = hook(given)
        if result is not None:
            given = result if isinstance(result, tuple) else (result,)
    slots = [v if create_graph or v is None else v._array for v in given]
    buffers[node] = slots[0] if node.metas is None else slots


def _as_tensors(values):
    return tuple([v if v is None or isinstance(v, Tensor) else make(v) for v in values])


def _leaf_hooks(node, value, create_graph):
    hooks = node.variable._hooks.tensor
    if not hooks:
        return value
    value = _call_hooks(hooks, _settled(value, node, 0), "AccumulateGrad")
    return value if create_graph else value._array


def _leaf(node, value, create_graph):
    if (value._array if value.__class__ is Tensor else value).dtype != node.dtype:  # a sum kept in float32
        value = _settled(value, node, 0)
    given = _as_tensors((value,)) if node.hooks is not None and node.hooks.post else None
    accumulate(node, value, create_graph)
    hooks = node.variable._hooks
    if hooks is not None:
        for hook in list(hooks.post.values()):
            hook(node.variable)
    if given is not None:
        for hook in list(node.hooks.post.values()):
            hook((), given)


def _step(node, value, buffers, heap, create_graph, keep_graph, reaching):
    edges = node.edges
    if node.metas is None:
        array = value._array if value.__class__ is Tensor else value
        if node._widen:
            if array.dtype != F32:
                value = op("Cast", value, dtype=F32)
        elif array.dtype != node.dtype:
            value = fit(value, node.shape, node.dtype, node, 0)
        array = None
        grads = (value,)
    else:
        grads = _many(node, value)
    value = None
    if create_graph:
        grads = _as_tensors(grads)
        if node._saved is not None:
            node._tensors = node.unpack(True)
    if reaching is not None:
        node.wanted = tuple([e is not None and endpoint(e)[0] in reaching for e in edges])
    watched = node.hooks is not None or modes.anomaly is not None
    try:
        out = node.backward(*grads)
        if out.__class__ is not tuple:
            out = (out,)
        if len(out) != len(edges):
            out = padded(node, out, edges)
        if watched:
            out = _after(node, out, grads, create_graph)
    except Exception as e:
        explain(node, e)
        raise
    finally:
        if create_graph:
            node._tensors = None
        if reaching is not None:
            node.wanted = None
    grads = None
    if not keep_graph:
        node.release()
    out = list(out)
    for i, edge in enumerate(edges):
        value, out[i] = out[i], None  # nothing here may hold a gradient that a leaf could own
        if edge is None or value is None:
            continue
        target = edge[0] if edge.__class__ is tuple else edge
        if reaching is not None and target not in reaching:
            continue
        array = value._array if value.__class__ is Tensor else value
        if array.__class__ not in _by_class:
            array = value = as_array(node, value)
        if edge is not target:
            shape, dtype = target.metas[edge[1]]
        else:
            shape, dtype = target.shape, target.dtype
        if array.shape != shape or array.dtype is not dtype:
            value = fit(value, shape, dtype, node, i)
        array = None
        if edge is target and edge not in buffers:
            buffers[edge] = value
            heappush(heap, (edge.order, edge))
        else:
            _deliver(buffers, heap, edge, value)


def _many(node, slots):
    """The gradients of all outputs: fitted, and zeros for those that nothing used (unless `materialize` is False)."""
    grads = []
    like = next(s for s in slots if s is not None)
    for i, (value, (shape, dtype)) in enumerate(zip(slots, node.metas)):
        wanted = F32 if node._widen and dtype in HALF else dtype
        if value is not None:
            value = fit(value, shape, wanted, node, i)
        elif node.materialize:
            value = xp_of(array_of(like)).zeros(shape, wanted)
        grads.append(value)
    return tuple(grads)


def _after(node, out, given, create_graph):
    if modes.anomaly == "check":
        for i, g in enumerate(out):
            array = g._array if isinstance(g, Tensor) else g
            if array is not None and dtypes.is_float(array.dtype) and bool(xp_of(array).isnan(wide(array)).any()):
                raise RuntimeError(nan_message(node, i, given))
    hooks = node.hooks
    if hooks is not None and hooks.post:
        out, given = _as_tensors(out), _as_tensors(given)
        for hook in list(hooks.post.values()):
            result = hook(out, given)
            if result is not None:
                out = result if isinstance(result, tuple) else (result,)
        if not create_graph:
            out = tuple([None if g is None else g._array for g in out])
    return out


# what users call

def _tensors(value, what):
    if isinstance(value, Tensor):
        return (value,)
    value = tuple(value)
    for v in value:
        if not isinstance(v, Tensor):
            raise TypeError(f"[{what}] expected Tensors, got {type(v).__name__}")
    return value


def _roots(outputs, gradients, create_graph, what):
    if gradients is None:
        gradients = (None,) * len(outputs)
    elif isinstance(gradients, Tensor):
        gradients = (gradients,)
    if len(gradients) != len(outputs):
        raise RuntimeError(f"[{what}] got {len(outputs)} tensors and {len(gradients)} gradients")
    roots = []
    for t, g in zip(outputs, gradients):
        if not t._req:
            raise RuntimeError(
                f"[{what}] element of tensors does not require grad and does not have a grad_fn: was it made under "
                "no_grad(), from detach()ed tensors, or of an integer dtype?"
            )
        if g is None:
            if t._array.size != 1:
                raise RuntimeError(
                    f"[{what}] grad can be implicitly created only for scalar outputs, got shape {list(t.shape)}: "
                    "reduce it (sum, mean) or pass gradient"
                )
            if dtypes.of(t._array).is_complex:
                raise RuntimeError(f"[{what}] grad can be implicitly created only for real scalar outputs but got "
                                   f"{t.dtype.name}: pass gradient")
            g = make(xp_of(t._array).ones(t._array.shape, t._array.dtype))
            g = g if create_graph else g._array
        else:
            if not isinstance(g, Tensor):
                raise TypeError(f"[{what}] gradients must be Tensors or None, got {type(g).__name__}")
            if g.shape != t.shape:
                raise RuntimeError(
                    f"[{what}] mismatch in shape: grad has shape {list(g.shape)} and output has shape {list(t.shape)}"
                )
            if dtypes.of(g._array).is_complex and not dtypes.of(t._array).is_complex:
                raise RuntimeError(f"[{what}] the gradient of a real output must be real, got {g.dtype.name}")
            if g.device != t.device:
                raise RuntimeError(f"[{what}] expected the gradient on {t.device}, got {g.device}")
            g = g if create_graph else g._array
            if (g._array if create_graph else g).dtype != t._array.dtype:
                g = op("Cast", g, dtype=t._array.dtype)
        roots.append((t._edge(), g))
    return roots


def backward(tensors, grad_tensors=None, retain_graph=None, create_graph=False, inputs=None) -> None:
    """Add the gradients of `tensors` to the `.grad` of the leaves (or of `inputs` only). As torch.autograd.backward.

    Raises: RuntimeError for a non-scalar without gradient, a second pass through a freed graph, a saved value that
    was changed in place.
    """
    tensors = _tensors(tensors, "backward")
    if retain_graph is None:
        retain_graph = create_graph
    roots = _roots(tensors, grad_tensors, create_graph, "backward")
    if inputs is None:
        run(roots, create_graph, retain_graph)
        return
    inputs = _tensors(inputs, "backward")
    if not inputs:
        raise RuntimeError("[backward] `inputs` argument to `backward` cannot be empty")
    edges = _input_edges(inputs, "backward")
    captured = run(roots, create_graph, retain_graph, edges, into_leaves=True)
    for t, e in zip(inputs, edges):
        value = captured.get(endpoint(e))
        if value is None:  # a leaf, which has it, or not reached
            continue
        value = value if isinstance(value, Tensor) else make(value.copy())
        if t._grad is None:
            t._grad = value
        else:
            t._grad = op("Add", t._grad, value) if create_graph else make(plain_sum(t._grad._array, value._array))


def _input_edges(inputs, what):
    edges = []
    for t in inputs:
        e = t._edge()
        if e is None:
            raise RuntimeError(f"[{what}] one of the differentiated Tensors does not require grad")
        edges.append(e)
    return edges


def grad(
    outputs, inputs, grad_outputs=None, retain_graph=None, create_graph=False, allow_unused=None,
    is_grads_batched=False, materialize_grads=False,
):
    """The gradients of `outputs` with respect to `inputs`, a tuple of Tensors. As torch.autograd.grad.

    Raises: RuntimeError when an input was not used and neither `allow_unused` nor `materialize_grads` is set.
    """
    if is_grads_batched:
        raise NotImplementedError("[grad] is_grads_batched=True is not there: call grad once for each row")
    outputs, inputs = _tensors(outputs, "grad"), _tensors(inputs, "grad")
    if allow_unused is None:
        allow_unused = materialize_grads
    elif not allow_unused and materialize_grads:
        raise ValueError("[grad] expected allow_unused to be True or not passed when materialize_grads=True")
    if retain_graph is None:
        retain_graph = create_graph
    roots = _roots(outputs, grad_outputs, create_graph, "grad")
    edges = _input_edges(inputs, "grad")
    captured = run(roots, create_graph, retain_graph, edges)
    results = []
    for t, e in zip(inputs, edges):
        value = captured.get(endpoint(e))
        if value is None:
            if materialize_grads:
                value = make(xp_of(t._array).zeros(t._array.shape, t._array.dtype))
            elif not allow_unused:
                raise RuntimeError(
                    "[grad] one of the differentiated Tensors appears to not have been used in the graph: set "
                    "allow_unused=True if this is the desired behavior"
                )
        elif not isinstance(value, Tensor):
            value = make(value)
        results.append(value)
    return tuple(results)


@attach("backward")
def _tensor_backward(self, gradient=None, retain_graph=None, create_graph=False, inputs=None):
    """Gradients of this tensor into the leaves' `.grad`. As torch.Tensor.backward."""
    backward((self,), None if gradient is None else (gradient,), retain_graph, create_graph, inputs)


def _measure_sole():
    """What `sys.getrefcount` shows in `_owned` on this Python, by sending a fresh array down the real path."""
    seen = []
    real = gradients._owned

    def owned(array):
        seen.append(sys.getrefcount(array))
        return array

    gradients._owned = owned
    leaf = make(np.zeros(1))
    leaf._req = True
    run([(_Fresh(leaf._edge()), np.zeros(1))], False, False)
    gradients._owned, gradients._sole = real, seen[0]


class _Fresh(Node):
    """A node whose gradient nobody else holds."""

    __slots__ = ()

    def __init__(self, edge):
        self.edges, self.order, self.shape, self.dtype = (edge,), -sys.maxsize, (1,), np.dtype(np.float64)
        self.metas = self.hooks = self.trace = None

    def backward(self, grad):
        return np.zeros(1)


_measure_sole()
