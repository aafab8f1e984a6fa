"""A program's own cupy.RawKernel or ElementwiseKernel, called as before, on a GPU and on the simulated device.

    square = from_cupy(cupy.ElementwiseKernel("T x", "T y", "y = x * x", "square"))
    square(x)                                     # CuPy's on a GPU; the same text by the emulator elsewhere

On a GPU the call goes to CuPy's object unchanged. On the simulated device the source is what a CPU executes, with every
launch checked as a Kernel's is.
"""
from __future__ import annotations

import numpy as np

from . import dtypes
from .device import CPU, backend_of, is_array
from .kernel import Kernel
from .kernel_source import C_NAMES, C_TYPES

__all__ = ["from_cupy"]

THREADS = 128


def from_cupy(kernel):
    """A callable that takes what `kernel` takes. Raises: TypeError for other than a RawKernel or ElementwiseKernel."""
    kind = type(kernel)
    if kind.__module__.partition(".")[0] == "cupy":
        if kind.__name__ == "RawKernel":
            return _Raw(kernel)
        if kind.__name__ == "ElementwiseKernel":
            return _Elementwise(kernel)
    raise TypeError(f"[kernel] expected a cupy.RawKernel or cupy.ElementwiseKernel, got {kind.__module__}."
                    f"{kind.__name__}: a function of arrays needs no wrapping")


def _device(name, args):
    """The backend of the arrays among `args`; a CPU array is refused."""
    for a in args:
        if is_array(a):
            backend = backend_of(a)
            if backend is CPU:
                break
            return backend
    raise RuntimeError(f"[kernel] {name} needs arrays on a GPU or on the simulated device: move them there, or give "
                       "the operation a formula for the CPU")


class _Raw:
    """cupy.RawKernel: (grid, block, args, shared_mem=0)."""

    def __init__(self, kernel):
        self.kernel, self.__name__ = kernel, kernel.name
        self.simulated = Kernel(kernel.code if kernel.code is not None else kernel.file_path, kernel.name,
                                options=tuple(o for o in kernel.options if not o.startswith("-std")))

    def __call__(self, grid, block, args, *, shared_mem=0):
        if _device(self.kernel.name, args).type == "cuda":
            return self.kernel(grid, block, args, shared_mem=shared_mem)
        return self.simulated(tuple(grid), tuple(block), *args, shared=shared_mem)


class _Elementwise:
    """cupy.ElementwiseKernel: (*inputs[, *outputs], size=None); allocates the outputs that are not given."""

    def __init__(self, kernel):
        self.kernel, self.__name__ = kernel, kernel.name
        self._made: dict[tuple, Kernel] = {}

    def __call__(self, *args, size=None, **options):
        k = self.kernel
        backend = _device(k.name, args)
        if backend.type == "cuda":
            return k(*args, **options) if size is None else k(*args, size=size, **options)
        if options:
            raise TypeError(f"[kernel] {k.name}: {', '.join(options)} is not simulated: leave it out")
        if len(args) not in (k.nin, k.nin + k.nout):
            raise TypeError(f"Wrong number of arguments for {k.name!r}: expected {k.nin} or {k.nin + k.nout}, got "
                            f"{len(args)}")
        return self._simulate(backend, args, size)

    def _simulate(self, backend, args, size):
        k, xp = self.kernel, backend.xp
        types = self._types(args)
        whole = [a for p, a in zip(k.params, args) if not p.raw and is_array(a)]
        shape = np.broadcast_shapes(*(a.shape for a in whole)) if whole else (size,)
        if shape == (None,):
            raise ValueError("Loop size is undecided: give size=, as all arrays are raw")
        inputs = []
        for p, a in zip(k.in_params, args):
            dtype = types[p.ctype]
            if not is_array(a):
                inputs.append(dtype.type(a))
            else:
                if a.dtype != dtype:
                    raise TypeError(f"Type is mismatched. {p.name} {a.dtype.type} {dtype.type}")
                inputs.append(xp.ascontiguousarray(a if p.raw else xp.broadcast_to(a, shape)))
        given = args[k.nin:]
        outputs = given or [xp.empty(shape, types[p.ctype]) for p in k.out_params]
        if any(not o.flags.c_contiguous for o in outputs):
            raise ValueError(f"[kernel] {k.name}: outputs must be contiguous on the simulated device")
        kernel = self._kernel(types, tuple(is_array(a) for a in inputs))
        n = int(np.prod(shape))
        if n:
            kernel((-(-n // THREADS),), (THREADS,), *inputs, *outputs, n)
        return outputs[0] if len(outputs) == 1 and not k.return_tuple else tuple(outputs)

    def _types(self, args):
        """{name in the kernel's text: dtype}; a letter is the dtype of the first array that has it."""
        types = {}
        for p in self.kernel.params[:self.kernel.nargs]:
            if p.dtype is not None:
                types[p.ctype] = p.dtype
        for p, a in zip(self.kernel.params, args):
            if is_array(a):
                types.setdefault(p.ctype, a.dtype)
        for p, a in zip(self.kernel.params, args):  # a letter that only Python numbers have
            types.setdefault(p.ctype, np.dtype(dtypes.result_type(a).np))
        for p in self.kernel.out_params:
            if p.ctype not in types:
                raise ValueError(f"Type of {p.name} cannot be found: pass the output")
        if odd := [t for t in types.values() if t not in C_NAMES]:
            raise TypeError(f"[kernel] {self.kernel.name}: {odd[0]} is not simulated")
        return types

    def _kernel(self, types, arrays):
        key = (*types.items(), arrays)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = Kernel(_source(self.kernel, types, arrays), self.kernel.name)
        return made


def _source(k, types, arrays):
    """The kernel that CuPy would write, over contiguous operands."""
    names = [f"typedef {C_NAMES[d]} {letter};" for letter, d in types.items() if letter not in C_TYPES]
    parameters, body = [], []
    for p, array in zip((*k.in_params, *k.out_params), (*arrays, *[True] * k.nout)):
        c = C_NAMES[types[p.ctype]]
        const = "const " if p in k.in_params else ""
        if not array:
            parameters.append(f"{c} {p.name}")
        elif p.raw:
            parameters.append(f"{const}{c}* {p.name}")
        else:
            parameters.append(f"{const}{c}* {p.name}_at")
            body.append(f"        {const}{c}& {p.name} = {p.name}_at[i];")
    return "\n".join((
        "#include <cuda_fp16.h>", "#include <cuda_bf16.h>", *names, k.preamble,
        f"__global__ void {k.name}({', '.join(parameters)}, long long size_of_loop) {{",
        "    const long long step = (long long)gridDim.x * blockDim.x;",
        "    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size_of_loop; i += step) {",
        *body, f"        {k.operation};", "    }", "}", ""))
