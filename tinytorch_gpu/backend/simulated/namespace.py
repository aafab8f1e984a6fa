"""`xp` and `special`: the names of CuPy that the simulation has, and CuPy's error for those that CuPy lacks."""

from __future__ import annotations

import types

import numpy as np
import scipy.special

from . import overrides, reductions, streams
from .array import ndarray, own
from .functions import make_function, rewrap, unwrap, widened
from .graphs import Graph
from .layout import Device
from .pool import OutOfMemoryError
from .table import MODULES
from .ufuncs import ufunc

# CuPy's dtypes; it has NumPy's abstract classes as well
_NUMPY_TYPES = {name for name in MODULES[""]["types"] if hasattr(np, name)} - {"ndarray", "ufunc", "broadcast"}
_REDUCTIONS = (
    "sum", "prod", "mean", "var", "std", "max", "min", "amax", "amin", "all", "any", "sometrue", "alltrue", "product",
    "argmax", "argmin", "ptp", "matmul",
)


class Namespace(types.ModuleType):
    """A module of CuPy names; one that CuPy lacks, or that is not simulated, is an AttributeError that says which."""

    def __init__(self, name: str, table: dict):
        super().__init__(name)
        self.__dict__["_table"] = table

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        table = self.__dict__["_table"]
        if any(name in table[kind] for kind in ("functions", "ufuncs", "types", "constants")):
            raise AttributeError(f"[simulated] '{self.__name__}' has '{name}', the simulated device does not")
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")


# They read or write the host's files and buffers, or hand the user's function an array: not simulated.
_LEFT_OUT = {
    "from_dlpack", "frombuffer", "fromfile", "fromfunction", "fromiter", "fromstring", "genfromtxt", "load", "loadtxt",
    "save", "savetxt", "savez", "savez_compressed", "apply_along_axis", "apply_over_axes", "piecewise", "mask_indices",
}


def fill_namespace(space: Namespace, table: dict, source, prefix: str = "") -> None:
    """Every function and ufunc of the table that NumPy (or SciPy) has too."""
    for name, row in table["ufuncs"].items():
        function = getattr(source, name, None)
        if function is not None:
            setattr(space, name, ufunc(name, row, function))
    for name, text in table["functions"].items():
        function = getattr(source, name, None)
        if function is not None and name not in _LEFT_OUT:
            setattr(space, name, make_function(name, text, function, prefix))


def _linalg() -> Namespace:
    space = Namespace("cupy.linalg", MODULES["linalg"])
    fill_namespace(space, MODULES["linalg"], np.linalg, "linalg.")
    space.LinAlgError = np.linalg.LinAlgError
    space.matmul = reductions.matmul
    for name in ("inv", "cholesky", "solve"):
        setattr(space, name, _without_error(getattr(space, name), name))
    for name in ("eig", "eigh", "qr", "slogdet", "svd"):
        setattr(space, name, _plain_tuple(getattr(space, name)))
    return space


def _without_error(function, name):
    """cuSOLVER reports a singular matrix on the device: CuPy's default ignores it and the numbers are NaN."""

    def call(*args):
        try:
            return function(*args)
        except np.linalg.LinAlgError as error:
            if "ingular" not in str(error) and "positive definite" not in str(error):
                raise
            shape = args[-1].shape
            return own(np.full(shape, np.nan, np.result_type(*[a.dtype for a in args])))

    call.__name__ = name
    call.simulated_signature = function.simulated_signature
    return call


def _plain_tuple(function):
    """NumPy names the results, CuPy gives a tuple."""

    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        return tuple(result) if isinstance(result, tuple) else result

    call.__name__ = function.__name__
    call.simulated_signature = function.simulated_signature
    return call


def _special() -> Namespace:
    table = MODULES["special"]
    space = Namespace("cupyx.scipy.special", table)
    names = {n: row for n, row in table["ufuncs"].items() if hasattr(scipy.special, n)}
    fill_namespace(space, {"ufuncs": names, "functions": {}}, scipy.special)
    for name in ("logsumexp", "softmax", "log_softmax", "polygamma", "multigammaln"):
        setattr(space, name, _from_scipy(name, table["functions"][name]))
    return space


def _from_scipy(name, text):
    function = getattr(scipy.special, name)

    checked = make_function(name, text, function, "special.")

    def half(*args, **kwargs):
        arrays: list = []
        raws = [unwrap(a, arrays) for a in args]
        if not arrays or all(a.dtype.itemsize > 2 for a in arrays):
            return checked(*args, **kwargs)
        kept = {k: unwrap(v, arrays) for k, v in kwargs.items()}
        with np.errstate(all="ignore"):
            return rewrap(np.asarray(function(*map(widened, raws), **kept)).astype(arrays[0].dtype), arrays)

    half.__name__ = name
    half.simulated_signature = text
    return half


class _Cuda:
    """The parts of cupy.cuda that array programs use: one device, its streams, the pool."""

    Device, Stream, ExternalStream, Event, Graph = Device, streams.Stream, streams.ExternalStream, streams.Event, Graph
    get_current_stream = staticmethod(streams.get_current_stream)
    get_elapsed_time = staticmethod(streams.get_elapsed_time)
    memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    runtime = types.SimpleNamespace(
        CUDARuntimeError=streams.CUDARuntimeError, streamCaptureModeRelaxed=2, getDevice=lambda: 0,
        getDeviceCount=lambda: 1, deviceSynchronize=streams.synchronize_device,
        streamIsCapturing=lambda ptr: streams.ExternalStream(ptr).is_capturing())

    @staticmethod
    def is_available():
        return True


xp = Namespace("cupy", MODULES[""])
for _name in MODULES[""]["constants"]:
    if hasattr(np, _name):
        setattr(xp, _name, getattr(np, _name))
for _name in _NUMPY_TYPES:
    setattr(xp, _name, getattr(np, _name))
fill_namespace(xp, MODULES[""], np)
for _name in _REDUCTIONS:
    setattr(xp, _name, getattr(reductions, _name))
for _name in overrides.__all__:
    setattr(xp, _name, getattr(overrides, _name))
xp.ndarray = ndarray
xp.ufunc = ufunc
xp.pi, xp.e, xp.newaxis = np.pi, np.e, None
xp.cuda = _Cuda()
xp.linalg = _linalg()
xp.fft = Namespace("cupy.fft", MODULES["fft"])
fill_namespace(xp.fft, MODULES["fft"], np.fft, "fft.")
xp.lib = Namespace("cupy.lib", MODULES["lib.stride_tricks"])
xp.lib.stride_tricks = Namespace("cupy.lib.stride_tricks", MODULES["lib.stride_tricks"])
fill_namespace(xp.lib.stride_tricks, MODULES["lib.stride_tricks"], np.lib.stride_tricks, "lib.stride_tricks.")
special = _special()
