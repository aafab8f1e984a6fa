"""Module: a tree of parameters, buffers and other modules, as torch.nn.Module."""
from __future__ import annotations

from ..autograd.modes import no_grad
from ..backend import dtypes
from ..backend.device import device as Device
from ..ops import empty_like
from ..tensor import Tensor
from .call import Callable
from .hooks import registered
from .parameter import Buffer, Parameter
from .state import Stateful

__all__ = ["Module"]


def indent(text, spaces=2):
    """All lines but the first moved to the right."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(" " * spaces + line if line.strip() else "" for line in rest)])


class Module(Callable, Stateful):
    """The base of all layers and models; subclasses call `super().__init__()` and define `forward`.

    Parameters, Buffers and Modules assigned as attributes are registered under their names.
    """

    training: bool

    def __init__(self):
        put = object.__setattr__  # past __setattr__, which needs these
        put(self, "training", True)
        put(self, "_parameters", {})
        put(self, "_buffers", {})
        put(self, "_non_persistent_buffers_set", set())
        put(self, "_modules", {})
        self._init_hooks()
        self._init_state_hooks()

    # attributes

    def __getattr__(self, name):
        held = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            if table in held and name in held[table]:
                return held[table][name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name, value):
        held = self.__dict__
        kind = value.__class__
        if not isinstance(value, (Tensor, Module)) and value is not None and "_parameters" in held:
            # the ordinary attribute, unless the name is taken by something registered
            if name not in held["_parameters"] and name not in held["_buffers"] and name not in held["_modules"]:
                object.__setattr__(self, name, value)
                return
        if isinstance(value, Parameter):
            self._need_init("parameters")
            self._forget(name, "_buffers", "_modules")
            self.register_parameter(name, value)
        elif name in held.get("_parameters", ()):
            if value is not None:
                raise TypeError(f"[{type(self).__name__}] cannot assign '{kind.__name__}' as parameter '{name}' "
                                "(nn.Parameter or None expected)")
            self.register_parameter(name, None)
        elif isinstance(value, Module) or name in held.get("_modules", ()):
            self._need_init("module")
            if value is not None and not isinstance(value, Module):
                raise TypeError(f"[{type(self).__name__}] cannot assign '{kind.__name__}' as child module '{name}' "
                                "(nn.Module or None expected)")
            self._forget(name, "_parameters", "_buffers")
            self._modules[name] = registered("module", self, name, value)
        elif isinstance(value, Buffer) or name in held.get("_buffers", ()):
            self._need_init("buffer")
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"[{type(self).__name__}] cannot assign '{kind.__name__}' as buffer '{name}' "
                                "(nn.Buffer, Tensor or None expected)")
            persistent = value.persistent if isinstance(value, Buffer) else (
                name not in self._non_persistent_buffers_set)
            held.pop(name, None)
            self.register_buffer(name, value, persistent)
        else:
            object.__setattr__(self, name, value)

    def _need_init(self, what):
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"[{type(self).__name__}] cannot assign {what} before Module.__init__() call: begin "
                                 "with super().__init__()")

    def _forget(self, name, *tables):
        self.__dict__.pop(name, None)
        for table in tables:
            self.__dict__[table].pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def __delattr__(self, name):
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self):
        names = {*dir(type(self)), *self.__dict__, *self._parameters, *self._modules, *self._buffers}
        return sorted(n for n in names if not n[0].isdigit())

    def _check_name(self, what, name, table):
        self._need_init(what)
        if not isinstance(name, str):
            raise TypeError(f"[{type(self).__name__}] {what} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'[{type(self).__name__}] {what} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'[{type(self).__name__}] {what} name can\'t be empty string ""')
        if hasattr(self, name) and name not in table:
            raise KeyError(f"[{type(self).__name__}] attribute '{name}' already exists")

    def register_parameter(self, name: str, param) -> None:
        """Add a Parameter (or None) under a name. Raises: KeyError for a bad or taken name, TypeError, ValueError."""
        self._check_name("parameter", name, self.__dict__.get("_parameters", {}))
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(f"[register_parameter] cannot assign '{type(param).__name__}' object to parameter "
                                f"'{name}' (nn.Parameter or None required)")
            if param.grad_fn is not None:
                raise ValueError(f"[register_parameter] Cannot assign non-leaf Tensor to parameter '{name}': compute "
                                 "it in forward()")
            param = registered("parameter", self, name, param)
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor, persistent: bool = True) -> None:
        """Add a tensor (or None) that is no parameter; `state_dict` holds it if persistent."""
        self._check_name("buffer", name, self.__dict__.get("_buffers", {}))
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"[register_buffer] cannot assign '{type(tensor).__name__}' object to buffer '{name}' "
                            "(Tensor or None required)")
        self._buffers[name] = registered("buffer", self, name, tensor)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module) -> None:
        """Add a submodule (or None) under a name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"[add_module] {type(module).__name__} is not a Module subclass: pass an instance of "
                            "nn.Module")
        self._check_name("module", name, self.__dict__.get("_modules", {}))
        self._modules[name] = registered("module", self, name, module)

    register_module = add_module

    # by name

    def get_submodule(self, target: str) -> Module:
        """The submodule with a dotted name, this module for "". Raises: AttributeError."""
        module = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"[get_submodule] {module._get_name()} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"[get_submodule] `{name}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module in the place of a dotted name. Raises: ValueError, AttributeError."""
        if not target:
            raise ValueError("[set_submodule] Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"[set_submodule] `module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if hasattr(parent, name):
            if not isinstance(getattr(parent, name), Module):
                raise AttributeError(f"[set_submodule] `{name}` is not an nn.Module")
        elif strict:
            raise AttributeError(f"[set_submodule] {parent._get_name()} has no attribute `{name}`")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with a dotted name. Raises: AttributeError."""
        value, name = self._get(target)
        if not isinstance(value, Parameter):
            raise AttributeError(f"[get_parameter] `{name}` is not an nn.Parameter")
        return value

    def get_buffer(self, target: str) -> Tensor:
        """The buffer with a dotted name. Raises: AttributeError."""
        value, name = self._get(target)
        if name not in self.get_submodule(target.rpartition(".")[0])._buffers:
            raise AttributeError(f"[get_buffer] `{name}` is not a buffer")
        return value

    def _get(self, target):
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"[{type(self).__name__}] {module._get_name()} has no attribute `{name}`")
        return getattr(module, name), name

    # going through

    def named_modules(self, memo=None, prefix: str = "", remove_duplicate: bool = True):
        """(dotted name, module) of this and all modules below, each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True):
        """This and all modules below."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def named_children(self):
        """(name, module) of the modules directly below, each once."""
        memo = set()
        for name, module in self._modules.items():
            if module is not None and module not in memo:
                memo.add(module)
                yield name, module

    def children(self):
        """The modules directly below."""
        return (module for _, module in self.named_children())

    def _named_members(self, table, prefix, recurse, remove_duplicate):
        memo = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in getattr(module, table).items():
                if value is None or id(value) in memo:
                    continue
                if remove_duplicate:
                    memo.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True):
        """(dotted name, parameter), each parameter once."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True):
        """All parameters, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True):
        """(dotted name, buffer), each buffer once."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True):
        """All buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def apply(self, fn):
        """Call `fn(module)` on all modules below and then on this one; returns the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # conversions: in place, parameters stay the same objects

    def _apply(self, fn, recurse: bool = True):
        if recurse:
            for module in self.children():
                module._apply(fn, recurse)
        with no_grad():
            for param in self._parameters.values():
                if param is not None:
                    grad = param.grad
                    param.data = fn(param)
                    param._leaf = None  # the end of a graph that is still alive would give gradients of the old dtype
                    if grad is not None:
                        param.grad = fn(grad)
            for name, buffer in self._buffers.items():
                if buffer is not None:
                    self._buffers[name] = fn(buffer)
        return self

    def to(self, *args, device=None, dtype=None, non_blocking=False):
        """Move and convert parameters and buffers: `to(device)`, `to(dtype)`, `to(device, dtype)`, `to(tensor)`.

        Only floating and complex values change dtype. A copy is ordered on the current stream; `non_blocking`
        changes nothing. Raises: TypeError for an integer dtype.
        """
        for arg in args:
            if isinstance(arg, Tensor):
                device, dtype = arg.device, arg.dtype
            elif isinstance(arg, dtypes.dtype):
                dtype = arg
            elif isinstance(arg, (Device, str)) or (isinstance(arg, int) and not isinstance(arg, bool)):
                device = Device(arg)
            elif arg is not None and not isinstance(arg, bool):  # a bool is non_blocking
                raise TypeError(f"[Module.to] expected a device, a dtype or a Tensor, got {type(arg).__name__}")
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError("[to] nn.Module.to only accepts floating point or complex dtypes, but got desired "
                            f"dtype={dtype}")

        def convert(t):
            floating = t.dtype.is_floating_point or t.dtype.is_complex
            return t.to(device=device, dtype=dtype if floating else None)

        return self._apply(convert)

    def _floats_to(self, dtype):
        return self._apply(lambda t: t.to(dtype=dtype) if t.dtype.is_floating_point else t)

    def float(self):
        """All floating parameters and buffers to float32."""
        return self._floats_to(dtypes.float32)

    def double(self):
        """All floating parameters and buffers to float64."""
        return self._floats_to(dtypes.float64)

    def half(self):
        """All floating parameters and buffers to float16."""
        return self._floats_to(dtypes.float16)

    def bfloat16(self):
        """All floating parameters and buffers to bfloat16."""
        return self._floats_to(dtypes.bfloat16)

    def type(self, dst_type):
        """All parameters and buffers to a dtype."""
        return self._apply(lambda t: t.to(dtype=dst_type))

    def cpu(self):
        """All parameters and buffers to the CPU."""
        return self._apply(lambda t: t.to(device="cpu"))

    def cuda(self, device=None):
        """All parameters and buffers to a GPU."""
        where = Device("cuda") if device is None else Device(device)
        return self._apply(lambda t: t.to(device=where))

    def to_empty(self, *, device, recurse: bool = True):
        """Parameters and buffers on a device, with undefined values."""
        return self._apply(lambda t: empty_like(t, device=device), recurse)

    # modes

    def train(self, mode: bool = True):
        """Set training mode here and below: Dropout and BatchNorm look at it."""
        if not isinstance(mode, bool):
            raise ValueError(f"[train] training mode is expected to be boolean, got {mode!r}")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self):
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True):
        """Set whether all parameters require gradients."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or to zero in place."""
        for p in self.parameters():
            if p.grad is not None:
                if set_to_none:
                    p.grad = None
                else:
                    p.grad = p.grad.detach()
                    p.grad.zero_()

    # text

    def _get_name(self):
        return self.__class__.__name__

    def extra_repr(self) -> str:
        """What stands between the brackets of the repr; subclasses may define it."""
        return ""

    def __repr__(self):
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {indent(repr(module))}" for name, module in self._modules.items()]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        if lines or children:
            return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"
        return f"{self._get_name()}()"
