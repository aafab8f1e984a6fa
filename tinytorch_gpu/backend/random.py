"""Random numbers from a counter: Philox 4x64-10, the stream of `numpy.random.Philox(key=seed).random_raw()`.

(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.)

A `Generator` is only a pair (seed, offset): the key, and how many 64-bit words of the stream are taken. A call
*reserves* a stretch of the stream and hands (seed, offset) to one of the functions below, which are pure: the same
pair gives the same numbers, so that a dropout node keeps two integers instead of its mask. Integers, masks and
uniforms are equal bit for bit on every device, normals and exponentials to the last digits of log, cos and sin.

Word w of the stream is word w % 4 of the block whose 256-bit counter is w // 4 + 1. Values of 64 bits take one word
each; values of 32 bits take the low, then the high half of a word. One word per value (two for complex) is enough
for every function: `seed, offset = generator.reserve(n)`. Arrays are made on the library's current device.
"""
from __future__ import annotations

import math
import os
import threading

import numpy as np

from . import dtypes
from .device import device as Device

__all__ = [
    "Generator", "default_generator", "generator_for", "manual_seed", "seed", "initial_seed", "get_rng_state",
    "set_rng_state", "random_bits", "uniform", "normal", "exponential", "bernoulli", "randint", "randperm",
]

_DEFAULT_SEED = 67280421310721  # PyTorch's seed of a new Generator()
_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
# Values made at a time on the CPU: the words stay in cache, and a large mask needs no large array of words.
_PIECE = 1 << 15
_BITS = {np.dtype(np.float16): 11, dtypes.bfloat16.np: 8, np.dtype(np.float32): 24, np.dtype(np.float64): 53}


class Generator:
    """A source of random numbers: a seed and the position in its stream. As torch.Generator.

    `get_state` and `set_state` speak `np.ndarray` of 16 uint8: seed and offset, little endian.
    """

    def __init__(self, device="cpu"):
        self.device = Device(device)
        self._lock = threading.Lock()
        self._seed, self._offset = _DEFAULT_SEED, 0

    def manual_seed(self, seed) -> Generator:
        """Start the stream of a seed in [-2^63, 2^64); negative seeds count from 2^64 down. Returns itself.

        Raises: RuntimeError for a seed that is no integer, ValueError outside the range.
        """
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise RuntimeError(f"[manual_seed] expected an integer seed, got {type(seed).__name__}: {seed!r:.60}")
        seed = seed.__index__()
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"[manual_seed] seed {seed} is out of range: use -2**63 <= seed < 2**64")
        with self._lock:
            self._seed, self._offset = seed & _MASK64, 0
        return self

    def seed(self) -> int:
        """Take a seed from the operating system's randomness and return it."""
        value = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(value)
        return value

    def initial_seed(self) -> int:
        """The seed of the stream."""
        return self._seed

    def reserve(self, n_words) -> tuple[int, int]:
        """Take the next n 64-bit words, rounded up to whole blocks of four; returns (seed, offset of the first)."""
        if n_words < 0:
            raise RuntimeError(f"[random] expected a non-negative number of values, got {n_words}")
        with self._lock:
            start = self._offset
            self._offset = (start + (n_words + 3 & ~3)) & _MASK64
            return self._seed, start

    def get_state(self) -> np.ndarray:
        """Seed and offset as 16 bytes."""
        with self._lock:
            return np.array([self._seed, self._offset], "<u8").view(np.uint8)

    def set_state(self, new_state) -> None:
        """Continue from the position that `get_state` returned.

        Raises: TypeError unless uint8, RuntimeError for another size.
        """
        if getattr(new_state, "dtype", None) != np.uint8:
            raise TypeError(f"[set_state] expected a uint8 array from get_state, got {type(new_state).__name__} "
                            f"of {getattr(new_state, 'dtype', 'no dtype')}")
        state = np.ascontiguousarray(new_state).reshape(-1)
        if state.size != 16:
            raise RuntimeError(f"[set_state] expected 16 bytes (seed, offset), got {state.size}: "
                               "pass what get_state of this package returned")
        seed, offset = (int(word) for word in state.view("<u8"))
        with self._lock:
            self._seed, self._offset = seed, offset

    def __repr__(self):
        return f"Generator(device='{self.device}', seed={self._seed}, offset={self._offset})"

    def __reduce__(self):
        return _restore, (str(self.device), self.get_state().tobytes())


def _restore(device, state):
    generator = Generator(device)
    generator.set_state(np.frombuffer(state, np.uint8))
    return generator


_defaults: dict[tuple, Generator] = {}
_defaults_lock = threading.Lock()
_global_seed: int | None = None


def default_generator(device="cpu") -> Generator:
    """The generator that calls on a device use unless they are given one."""
    where = Device(device)
    key = where.type, where.index or 0
    found = _defaults.get(key)
    if found is None:
        with _defaults_lock:
            found = _defaults.get(key)
            if found is None:
                found = Generator(where)
                if _global_seed is None:
                    found.seed()
                else:
                    found.manual_seed(_global_seed)
                _defaults[key] = found
    return found


def generator_for(device, generator=None) -> Generator:
    """The given generator if it belongs to the device, or the device's default one.

    Raises: RuntimeError when the generator is of another device type.
    """
    if generator is None:
        return default_generator(device)
    if generator.device.type != device.type:
        raise RuntimeError(f"[random] expected a generator on {device.type}, got one on {generator.device}: "
                           f"make it with Generator(device='{device.type}')")
    return generator


def manual_seed(seed) -> Generator:
    """Seed the default generators of all devices; returns the CPU's. As torch.manual_seed."""
    global _global_seed
    value = Generator().manual_seed(seed).initial_seed()
    with _defaults_lock:
        _global_seed = value
        for generator in _defaults.values():
            generator.manual_seed(value)
    return default_generator()


def seed() -> int:
    """Seed the default generators of all devices from the operating system; returns the seed. As torch.seed."""
    return manual_seed(int.from_bytes(os.urandom(8), "little")).initial_seed()


def initial_seed() -> int:
    """The seed of the CPU's default generator. As torch.initial_seed."""
    return default_generator().initial_seed()


def get_rng_state(device="cpu") -> np.ndarray:
    """The state of a device's default generator, 16 uint8."""
    return default_generator(device).get_state()


def set_rng_state(new_state, device="cpu") -> None:
    """Put back what `get_rng_state` returned."""
    default_generator(device).set_state(new_state)


class _HostStream(threading.local):
    """NumPy's Philox, one per thread: setting its state takes 2 us, making a new one 19 us."""

    def __init__(self):
        self.source = np.random.Philox(key=0)
        self.state = self.source.state
        self.counter, self.key = self.state["state"]["counter"], self.state["state"]["key"]


_host = _HostStream()


def _host_words(seed, offset, n):
    host = _host
    host.key[0] = seed
    host.counter[0] = offset >> 2  # NumPy adds one before it makes a block
    host.source.state = host.state
    skip = offset & 3
    return host.source.random_raw(n + skip)[skip:]


def _multiply(a, m):
    """High and low words of the 128-bit products of a uint64 array and an integer, by 32-bit halves."""
    low32 = np.uint64(_MASK32)
    m_high, m_low, half = np.uint64(m >> 32), np.uint64(m & _MASK32), np.uint64(32)
    a_high, a_low = a >> half, a & low32
    middle = a_high * m_low + (a_low * m_low >> half)
    cross = a_low * m_high + (middle & low32)
    return a_high * m_high + (middle >> half) + (cross >> half), a * np.uint64(m)


def _philox_words(xp, seed, offset, n):
    """The same words by array arithmetic, for namespaces without NumPy's bit generators."""
    first = offset >> 2
    blocks = (offset + n + 3 >> 2) - first
    c0 = xp.arange(blocks, dtype=np.uint64) + np.uint64(first + 1)
    c1 = c2 = c3 = xp.zeros(blocks, dtype=np.uint64)
    k0, k1 = seed, 0
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK64, (k1 + _WEYL[1]) & _MASK64
    words = xp.empty((blocks, 4), dtype=np.uint64)
    for column, c in enumerate((c0, c1, c2, c3)):
        words[:, column] = c
    return words.reshape(-1)[offset & 3:(offset & 3) + n]


def random_bits(backend, seed, offset, n, bits=64):
    """`n` random words of 64 or 32 bits, (n,) uint64 or uint32, from word `offset` of the seed's stream."""
    if bits == 32:
        return random_bits(backend, seed, offset, n + 1 >> 1).view(np.uint32)[:n]
    if bits != 64:
        raise ValueError(f"[random_bits] bits must be 32 or 64, got {bits}")
    if backend.xp is np:
        return _host_words(seed, offset, n)
    return _philox_words(backend.xp, seed, offset, n)


def _pieces(backend, n):
    """Stretches (start, stop) of n values that are made together; starts are multiples of a block."""
    if n <= _PIECE or backend.xp is not np:
        return ((0, n),)
    return ((start, min(start + _PIECE, n)) for start in range(0, n, _PIECE))


def _floating(op, dtype):
    """(numpy dtype, real dtype to compute in, values per element); TypeErrors are PyTorch's."""
    dtype = dtypes.from_any(dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        raise NotImplementedError(f"[{op}] not implemented for {dtype.name}: use a floating dtype and convert")
    real = dtype.to_real().np
    return dtype.np, dtypes.accumulation(real), 2 if dtype.is_complex else 1


def _unit(backend, seed, offset, out, bits):
    """Fill `out` (n,), float32 or float64, with multiples of 2^-bits in [0, 1)."""
    wide = out.dtype.itemsize * 8
    for start, stop in _pieces(backend, out.size):
        words = random_bits(backend, seed, offset + start * wide // 64, stop - start, wide)
        words = words >> words.dtype.type(wide - bits)
        piece = out[start:stop]
        piece[...] = words.view(np.int32 if wide == 32 else np.int64)  # below 2^53, and signed converts faster
        piece *= out.dtype.type(2.0**-bits)


def uniform(backend, shape, dtype, low, high, seed_offset):
    """Values of [low, high) in steps of (high - low) times 2^-53 float64, 2^-24 float32, 2^-11 float16, 2^-8 bfloat16.

    Complex dtypes have both parts uniform. float64 takes 64 bits a value, all others 32.
    Raises: RuntimeError when low > high, NotImplementedError for integer dtypes.
    """
    if not low <= high:
        raise RuntimeError(f"[uniform] expected low <= high, got low={low}, high={high}")
    target, compute, parts = _floating("uniform", dtype)
    real = dtypes.from_any(dtype).to_real().np
    out = backend.xp.empty(math.prod(shape) * parts, dtype=compute)
    _unit(backend, *seed_offset, out, _BITS[real])
    if low != 0 or high != 1:
        # two roundings, never fused: the bits must agree between devices
        out *= compute.type(high - low)
        out += compute.type(low)
        if low < high:  # rounding can reach `high`, which does not belong to the interval
            below = np.nextafter(real.type(high), real.type(low))
            backend.xp.minimum(out, compute.type(below), out=out)
    return _finish(out, target, parts, shape)


def _finish(out, target, parts, shape):
    return (out.view(target) if parts == 2 else out.astype(target, copy=False)).reshape(shape)


def _open_unit(xp, words, compute):
    """Values in (0, 1] for a logarithm, from all 32 or from 53 bits, so that small values stay fine."""
    if compute == np.float32:
        values = words.astype(compute)
        values *= np.float32(2.0**-32)
        values += np.float32(2.0**-33)
    else:
        values = (words >> np.uint64(11)).astype(compute)
        values += 1.0
        values *= 2.0**-53
    return values


def normal(backend, shape, dtype, mean, std, seed_offset):
    """Normal values by Box and Muller (1958): words 2i, 2i+1 give values 2i, 2i+1 = r cos t, r sin t.

    Word 2i gives the radius r = sqrt(-2 log u), u in (0, 1], word 2i+1 the angle t = 2 pi v, v in [0, 1).
    Words of 64 bits for float64, of 32 for all others; a complex value takes two, each of variance std^2 / 2.
    Raises: RuntimeError for a negative std, NotImplementedError for integer dtypes.
    """
    if not std >= 0:
        raise RuntimeError(f"[normal] expected std >= 0, got {std}")
    target, compute, parts = _floating("normal", dtype)
    xp = backend.xp
    seed, offset = seed_offset
    bits = compute.itemsize * 8
    n = math.prod(shape) * parts
    out = xp.empty(n + (n & 1), dtype=compute)
    for start, stop in _pieces(backend, out.size):
        words = random_bits(backend, seed, offset + start * bits // 64, stop - start, bits)
        radius = _open_unit(xp, words[0::2], compute)
        xp.log(radius, out=radius)
        radius *= compute.type(-2)
        xp.sqrt(radius, out=radius)
        keep = 24 if bits == 32 else 53
        angle = (words[1::2] >> words.dtype.type(bits - keep)).astype(compute)
        angle *= compute.type(2 * math.pi * 2.0**-keep)
        xp.multiply(radius, xp.cos(angle), out=out[start:stop:2])
        xp.multiply(radius, xp.sin(angle), out=out[start + 1:stop:2])
    out = out[:n]
    if parts == 2:
        std = std * math.sqrt(0.5)
    if std != 1:
        out *= compute.type(std)
    result = _finish(out, target, parts, shape)
    if mean != 0:
        # after the rounding to complex, so that a complex mean works; half types add in float32
        result = (result + target.type(mean)) if parts == 2 else (out + compute.type(mean)).astype(
            target, copy=False).reshape(shape)
    return result


def exponential(backend, shape, dtype, lambd, seed_offset):
    """Exponential values of rate lambd, greater than 0: -log(u) / lambd. float64 takes 64 bits, others 32.

    Raises: RuntimeError unless lambd > 0, NotImplementedError for other than floating dtypes.
    """
    if not lambd > 0:
        raise RuntimeError(f"[exponential] expected lambd > 0, got {lambd}")
    target, compute, parts = _floating("exponential", dtype)
    if parts == 2:
        raise NotImplementedError(f"[exponential] not implemented for {target.name}: use a real floating dtype")
    xp = backend.xp
    seed, offset = seed_offset
    bits = compute.itemsize * 8
    out = xp.empty(math.prod(shape), dtype=compute)
    for start, stop in _pieces(backend, out.size):
        words = random_bits(backend, seed, offset + start * bits // 64, stop - start, bits)
        out[start:stop] = xp.log(_open_unit(xp, words, compute))
    out *= compute.type(-1 / lambd)
    # u = 1 would give 0: the smallest value is that of the middle of the last step below 1
    xp.maximum(out, compute.type(np.finfo(compute).eps / 2 / lambd), out=out)
    return _finish(out, target, parts, shape)


def bernoulli(backend, shape, p, seed_offset):
    """Boolean mask that is True with probability p: a number (32 bits a value, p in steps of 2^-32), or an array
    that broadcasts to `shape` (compared with a uniform of 53 bits if float64, else of 24).

    Raises: RuntimeError for a number, or an element on the CPU, outside [0, 1].
    """
    xp = backend.xp
    if hasattr(p, "ndim"):
        if xp is np and not ((p >= 0) & (p <= 1)).all():
            raise RuntimeError("[bernoulli] expected all probabilities in [0, 1]")
        dtype = dtypes.float64 if p.dtype == np.float64 else dtypes.float32
        return uniform(backend, shape, dtype, 0, 1, seed_offset) < p.astype(dtype.np)
    if not 0 <= p <= 1:
        raise RuntimeError(f"[bernoulli] expected a probability in [0, 1], got {p}")
    n = math.prod(shape)
    threshold = round(p * 2**32)
    if threshold == 2**32:
        return xp.ones(shape, dtype=np.bool_)
    out = xp.empty(n, dtype=np.bool_)
    for start, stop in _pieces(backend, n):
        words = random_bits(backend, seed_offset[0], seed_offset[1] + start // 2, stop - start, 32)
        xp.less(words, np.uint32(threshold), out=out[start:stop])
    return out.reshape(shape)


def randint(backend, low, high, shape, dtype, seed_offset):
    """Integers of [low, high): the high word of (64 random bits) * (high - low), one word a value.

    The probabilities differ by less than (high - low) / 2^64 of themselves.
    Raises: RuntimeError when the interval is empty or does not fit the dtype.
    """
    dtype = dtypes.from_any(dtype)
    if not low < high:
        raise RuntimeError(f"[randint] expected low < high, got low={low}, high={high}")
    if dtype.is_complex:
        raise RuntimeError(f"[randint] not implemented for {dtype.name}: use an integer, floating or bool dtype")
    info = None if dtype.is_floating_point else np.iinfo(dtype.np) if dtype.name != "bool" else None
    smallest, largest = (info.min, info.max) if info else (0, 1) if dtype.name == "bool" else (-(2**63), 2**63 - 1)
    if low < smallest or high - 1 > largest:
        raise RuntimeError(f"[randint] [{low}, {high}) does not fit {dtype.name}, which holds {smallest} to {largest}")
    words = random_bits(backend, *seed_offset, math.prod(shape))
    span = high - low
    if span <= 2**32:  # fits without the general product: 5 operations for 10
        range_, half = np.uint64(span), np.uint64(32)
        values = (words >> half) * range_
        values += (words & np.uint64(_MASK32)) * range_ >> half
        values >>= half
    else:
        values = words if span == 2**64 else _multiply(words, span)[0]
    values = values + np.uint64(low & _MASK64)
    return values.view(np.int64).astype(dtype.np).reshape(shape)


def randperm(backend, n, seed_offset):
    """A random order of 0 .. n-1, int64: the order of n random words (a tie has probability n^2 / 2^65).

    Raises: RuntimeError for a negative n.
    """
    if n < 0:
        raise RuntimeError(f"[randperm] expected n >= 0, got {n}")
    return backend.xp.argsort(random_bits(backend, *seed_offset, n)).astype(np.int64, copy=False)
