"""save and load: what goes in comes back; files are whole or the old ones; damaged files are told apart."""

from __future__ import annotations

import collections
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import dtypes

ROOT = pathlib.Path(__file__).resolve().parent.parent


def bits(x):
    return x.cpu().detach().numpy().tobytes()


def same(a, b):
    """Equal type, structure, dtype and bits."""
    assert type(a) is type(b), (type(a), type(b))
    if isinstance(a, dict):
        assert list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b]
        return all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, tt.Tensor):
        return a.dtype is b.dtype and a.shape == b.shape and a.device == b.device and bits(a) == bits(b)
    if isinstance(a, (np.ndarray, np.generic)):
        return (
            a.dtype.newbyteorder("=") == b.dtype
            and a.shape == b.shape
            and (a.tobytes() == b.tobytes() or (a == b).all())
        )
    return a == b or (a != a and b != b)


def test_every_dtype_and_shape(tmp_path, rng, device):
    obj = {}
    for d in dtypes.ALL:
        for shape in ((), (0,), (3, 0, 2), (5,), (2, 3, 4)):
            values = rng.integers(0, 2, shape) if d.name == "bool" else rng.normal(size=shape) * 9
            if d.is_complex:
                values = values + 1j * rng.normal(size=shape)
            array = np.asarray(abs(values) if d.name == "uint8" else values).astype(d.np)
            obj[f"{d.name} {shape}"] = tt.tensor(array, device=device)
    obj["transposed"] = tt.tensor(rng.normal(size=(3, 5)), device=device).t()
    obj["negative strides"] = tt.tensor(rng.normal(size=(3, 5)), device=device).flip(0)[::2, 1:]
    obj["expanded"] = tt.tensor(rng.normal(size=(3, 1)), device=device).expand(3, 4)
    tt.save(obj, tmp_path / "x")
    assert same(tt.load(tmp_path / "x"), obj)


def test_structure(tmp_path):
    obj = {
        "optimizer": {"state": {0: {"step": 3}, 1: {}}, "groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        None: [True, False, None, 0, -1, 2**63, -(2**63) - 1, 10**5000, 0.1, -0.0, math.inf, -math.inf, math.nan],
        (1, "a", None): (),
        2.5: [[[]]],
        True: "unicode \u2603 \U0001f600 \0 \ud800 \"'[]",
        b"k": b"\x00\xff",
        "complex": [1 + 2j, complex(math.inf, math.nan)],
        "dtype": tt.bfloat16,
        "device": tt.device("cuda:1"),
        "ordered": collections.OrderedDict([("z", 1), ("a", {"object": 1, "tensor": ["object", 0]})]),
        "sets": [{1, 2}, frozenset({"a"})],
        "__metadata__": tt.ones(1),
        "a.b": tt.ones(2),
        "a": {"b": tt.zeros(3)},
        "numpy": [
            np.arange(3, dtype=">i4"),
            np.uint64([2**64 - 1]),
            np.float32(1.5),
            np.complex128(1j),
            np.bool_(True),
            np.array(3, np.uint16),
            np.ones((2, 3), ml_dtypes.bfloat16),
        ],
    }
    tt.save(obj, str(tmp_path / "x"))
    back = tt.load(str(tmp_path / "x"))
    assert same(obj, back)
    assert math.copysign(1, back[None][9]) == -1
    for value in (None, 3, "s", [], tt.ones(2), np.float16(2)):
        tt.save(value, tmp_path / "x")
        assert same(tt.load(tmp_path / "x"), value)


def test_shared_memory_is_stored_once(tmp_path, device):
    w = tt.ones(1000, device=device)
    obj = {"a": w, "again": w, "same memory": w.detach(), "view": w.view(10, 100), "equal": w.clone()}
    tt.save(obj, tmp_path / "x")
    assert os.path.getsize(tmp_path / "x") < 3 * 4000 + 2000  # w, its view of another shape, its copy
    back = tt.load(tmp_path / "x")
    assert back["a"] is back["again"] and back["same memory"] is not back["a"]
    back["a"].fill_(2)
    assert back["same memory"][0].item() == 2 and back["equal"][0].item() == 1


def test_parameters_and_tied_weights(tmp_path):
    nn = pytest.importorskip("tinytorch_gpu.nn")
    p = nn.Parameter(tt.ones(3))
    frozen = nn.Parameter(tt.ones(2), requires_grad=False)
    tt.save({"p": p, "tied": p, "frozen": frozen, "plain": tt.ones(2, requires_grad=True)}, tmp_path / "x")
    back = tt.load(tmp_path / "x")
    assert type(back["p"]) is nn.Parameter and back["p"].requires_grad and back["tied"] is back["p"]
    assert type(back["frozen"]) is nn.Parameter and not back["frozen"].requires_grad
    assert type(back["plain"]) is tt.Tensor and not back["plain"].requires_grad


def test_state_dicts(tmp_path, device):
    """A module's and an optimizer's state come back: metadata, order, integer keys; ready for another round."""
    nn, optim = pytest.importorskip("tinytorch_gpu.nn"), pytest.importorskip("tinytorch_gpu.optim")

    def made():
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(device)
        return model, optim.AdamW(model.parameters(), lr=0.01)

    model, optimizer = made()
    x = tt.randn(5, 3, device=device)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    tt.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x")
    back = tt.load(tmp_path / "x")
    tt.save(back, tmp_path / "x")
    back = tt.load(tmp_path / "x")
    assert list(back["model"]) == list(model.state_dict())
    assert back["model"]._metadata == model.state_dict()._metadata
    other, another = made()
    other.load_state_dict(back["model"])
    another.load_state_dict(back["optimizer"])
    for m, o in ((model, optimizer), (other, another)):
        o.zero_grad()
        m(x).square().sum().backward()
        o.step()
    assert all(bits(a) == bits(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    tt.save(model.state_dict(), tmp_path / "x")
    safetensors = pytest.importorskip("safetensors.numpy")
    assert sorted(safetensors.load_file(tmp_path / "x")) == sorted(model.state_dict())


def test_results_of_operators_are_saved_as_values(tmp_path):
    x = tt.ones(2, requires_grad=True)
    tt.save(x * 2, tmp_path / "x")
    back = tt.load(tmp_path / "x")
    assert back.is_leaf and back.tolist() == [2, 2]


@pytest.mark.parametrize(
    "obj, where",
    [
        (lambda: 0, "the object"),
        ({"optimizer": {"state": [{"foo": print}]}}, r"\['optimizer'\]\['state'\]\[0\]\['foo'\]"),
        ({1: object()}, r"\[1\]"),
        ([np.array(["a"])], r"\[0\]"),
        ([np.array([None])], r"\[0\]"),
        ({print: 1}, "a key of the object"),
        (collections.defaultdict(list), "the object"),
        (pathlib.Path("a"), "the object"),
    ],
)
def test_what_cannot_be_stored(tmp_path, obj, where):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(TypeError, match=rf"^\[save\] {where} is a"):
        tt.save(obj, tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_cycles_and_depth(tmp_path):
    a = [1]
    a.append({"a": a})
    with pytest.raises(ValueError, match=r"^\[save\] \[1\]\['a'\] contains itself"):
        tt.save(a, tmp_path / "x")
    for _ in range(100_000):
        a = [a]
    a = []
    for _ in range(100_000):
        a = [a]
    with pytest.raises(ValueError, match="nested too deeply"):
        tt.save(a, tmp_path / "x")
    twice = [1]
    tt.save([twice, twice], tmp_path / "x")  # the same list twice is no cycle
    assert tt.load(tmp_path / "x") == [[1], [1]]


def test_file_objects(tmp_path):
    stream = io.BytesIO()
    tt.save({"a": tt.ones(2)}, stream)
    tt.save([tt.zeros(3)], stream)  # one after the other in one stream, as with torch.save
    stream.seek(0)
    assert tt.load(stream)["a"].tolist() == [1, 1] and tt.load(stream)[0].tolist() == [0, 0, 0]

    class Slow:
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def read(self, n):
            return self.data.read(min(n, 3))

    assert tt.load(Slow(stream.getvalue()))["a"].tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="cut off"):
        tt.load(Slow(stream.getvalue()[:-30][:-20]).data.__class__(stream.getvalue()[:50]))


def test_other_programs_read_it_and_are_read(tmp_path, rng):
    safetensors = pytest.importorskip("safetensors.numpy")
    state = {
        "layer.weight": tt.tensor(rng.normal(size=(3, 4))),
        "layer.bias": tt.ones(3, dtype=tt.bfloat16),
        "c": tt.ones(2, dtype=tt.complex64),
        "flag": tt.tensor([True]),
    }
    tt.save(state, tmp_path / "ours")
    theirs = safetensors.load_file(tmp_path / "ours")
    assert sorted(theirs) == sorted(state)
    for name, value in theirs.items():
        assert value.tobytes() == bits(state[name]) and value.shape == state[name].shape
    for metadata in (None, {"format": "pt"}):
        safetensors.save_file(theirs, tmp_path / "theirs", metadata)
        back = tt.load(tmp_path / "theirs", "sim")
        assert all(back[k].device.type == "sim" and bits(back[k]) == bits(state[k]) for k in state)
        assert tt.load(tmp_path / "theirs")["c"].device.type == "cpu"
    safetensors.save_file({"u": np.arange(3, dtype=np.uint32)}, tmp_path / "theirs")
    with pytest.raises(RuntimeError, match=r"tensor 'u' is uint32, which tensors do not support"):
        tt.load(tmp_path / "theirs")


def test_every_header_length(tmp_path):
    """A length's first byte may look like the start of a pickle."""
    for n in range(0, 600, 5):
        tt.save("x" * n, tmp_path / "x")
        assert tt.load(tmp_path / "x") == "x" * n


def test_map_location(tmp_path):
    tt.save([tt.ones(3, device="sim"), tt.zeros(2, device="cpu"), np.ones(1)], tmp_path / "x")
    assert [x.device.type for x in tt.load(tmp_path / "x")[:2]] == ["sim", "cpu"]
    for where in ("cpu", tt.device("cpu"), "sim:0"):
        assert {x.device.type for x in tt.load(tmp_path / "x", map_location=where)[:2]} == {tt.device(where).type}
    assert type(tt.load(tmp_path / "x", "sim")[2]) is np.ndarray
    with pytest.raises(RuntimeError, match=r"^\[device\] expected one of"):
        tt.load(tmp_path / "x", map_location="tpu")
    with pytest.raises(ValueError, match=r"^\[load\] weights_only=False would run code"):
        tt.load(tmp_path / "x", weights_only=False)
    if not tt.backend.device.probe().available:
        data = (tmp_path / "x").read_bytes()
        (tmp_path / "x").write_bytes(data.replace(rb"\"sim:0\"", rb"\"cuda\" "))
        with pytest.raises(RuntimeError, match=r"^\[load\] tensor '0' was saved on cuda, .* map_location='cpu'"):
            tt.load(tmp_path / "x")
        assert tt.load(tmp_path / "x", "cpu")[0].tolist() == [1, 1, 1]


def container(head, data=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def structure(text, **more):
    return {"__metadata__": {"tinytorch_gpu": "1", "structure": text}, **more}


DAMAGED = {
    "empty": (b"", "0 bytes"),
    "short": (b"1234", "4 bytes"),
    "text": (b"hello world, this is text", "no safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(40), "torch.save"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0abc", "pickle"),
    "zeros": (bytes(64), "header would have 0 bytes"),
    "header longer than the file": (container(b"{}")[:-1], "cut off"),
    "no json": (container(b"{abc}"), "no JSON"),
    "not utf-8": (container(b'{"\xff": 1}'), "no JSON"),
    "a list": (container([1]), "no JSON object"),
    "nan": (container(b'{"a": NaN}'), "NaN"),
    "deep": (container(b"[" * 100_000), "no JSON"),
    "twice": (container(b'{"a": 1, "a": 2}'), "twice"),
    "metadata": (container({"__metadata__": {"a": 1}}), "metadata"),
    "entry": (container({"a": 3}), "no data_offsets"),
    "no offsets": (container({"a": {"dtype": "F32"}}), "no data_offsets"),
    "dtype": (container({"a": entry("F7")}, bytes(8)), "dtype 'F7'"),
    "f8": (container({"a": entry("F8_E4M3", (8,))}, bytes(8)), "not supported"),
    "dtype is a list": (container({"a": entry([1])}, bytes(8)), "dtype"),
    "shape": (container({"a": entry(shape=(-2,))}, bytes(8)), "shape"),
    "shape bool": (container({"a": entry(shape=(True, 2))}, bytes(8)), "shape"),
    "size": (container({"a": entry(shape=(3,))}, bytes(8)), "cannot lie"),
    "huge": (container({"a": entry(shape=(2**61,), offsets=(0, 2**63))}, bytes(8)), "cut off"),
    "hole": (container({"a": entry(offsets=(4, 12))}, bytes(12)), "cannot lie"),
    "overlap": (container({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "cannot lie"),
    "cut": (container({"a": entry()}, bytes(7)), "cut off"),
    "longer": (container({"a": entry()}, bytes(9)), "cut off or changed"),
    "bool": (container({"a": entry("BOOL", (8,))}, b"\2" * 8), "neither 0 nor 1"),
    "version": (container({"__metadata__": {"tinytorch_gpu": "99"}}), "format 99"),
    "no structure": (container({"__metadata__": {"tinytorch_gpu": "1"}}), "structure is damaged"),
    "structure no json": (container(structure("{")), "structure is damaged"),
    "structure of a number": (container(structure("3")), "structure is damaged"),
    "no value": (container(structure('{"objects":[]}')), "structure is damaged"),
    "unknown kind": (container(structure('{"objects":[],"value":["eval","1"]}')), "structure is damaged"),
    "unknown object": (container(structure('{"objects":[],"value":["object",0]}')), "structure is damaged"),
    "unknown object kind": (container(structure('{"objects":[["x","a","cpu","float32"]],"value":0}')), "structure"),
    "missing tensor": (container(structure('{"objects":[["tensor","a","cpu","float32"]],"value":0}')), "structure"),
    "wrong dtype": (
        container(structure('{"objects":[["tensor","a","cpu","int32"]],"value":0}', a=entry()), bytes(8)),
        "int32",
    ),
    "wrong complex": (
        container(structure('{"objects":[["tensor","a","cpu","complex128"]],"value":0}', a=entry()), bytes(8)),
        "structure",
    ),
    "unhashable key": (container(structure('{"objects":[],"value":["dict",[["list"],1]]}')), "structure is damaged"),
    "wrong bytes": (container(structure('{"objects":[],"value":["bytes","!!"]}')), "structure is damaged"),
    "no kind": (container(structure('{"objects":[],"value":[]}')), "structure is damaged"),
    "device": (
        container(structure('{"objects":[["tensor","a","tpu","float32"]],"value":0}', a=entry()), bytes(8)),
        "tpu",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    data, message = DAMAGED[name]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(RuntimeError) as caught:
        tt.load(tmp_path / "x")
    text = str(caught.value)
    assert text.startswith("[load] ") and message in text, text


def test_every_cut_and_changed_bytes(tmp_path, rng):
    tt.save({"a": tt.ones(5), "b": [tt.zeros(3, dtype=tt.complex128), (1, {"k": "v"})]}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for n in range(len(whole)):
        (tmp_path / "y").write_bytes(whole[:n])
        with pytest.raises(RuntimeError, match=r"^\[load\] "):
            tt.load(tmp_path / "y")
    for _ in range(500):  # a changed byte gives other values or one clear error
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        (tmp_path / "y").write_bytes(damaged)
        try:
            tt.load(tmp_path / "y")
        except RuntimeError as e:
            assert str(e).startswith("[load] "), e


def test_missing_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^\[load\] .*nothing does not exist"):
        tt.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError, match=r"^\[load\] .* is a folder"):
        tt.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^\[save\] .* cannot be written: No such file"):
        tt.save(1, tmp_path / "no" / "x")
    with pytest.raises(IsADirectoryError, match=r"^\[save\] .* cannot be written: is a directory"):
        tt.save(1, tmp_path)


def test_failure_keeps_the_old_file(tmp_path, monkeypatch):
    tt.save("old", tmp_path / "x")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^\[save\] .*x cannot be written: No space left on device") as caught:
        tt.save("new", tmp_path / "x")
    assert caught.value.errno == 28
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tt.save("new", tmp_path / "x")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x"] and tt.load(tmp_path / "x") == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
def test_a_file_too_large(tmp_path):
    code = """
import resource, os, sys
import tinytorch_gpu as tt
tt.save("old", "x")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    tt.save(tt.ones(1 << 20), "x")
except OSError as e:
    print(type(e).__name__, e.errno, e)
print(os.listdir("."), tt.load("x"))
"""
    out = run(code, tmp_path)
    assert out.startswith("OSError 27 [save] x cannot be written: File too large") and out.endswith("['x'] old\n"), out


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_while_saving(tmp_path, rng):
    """kill -9 at random moments of a loop that saves: the file is always whole and of one save."""
    code = """
import sys
import tinytorch_gpu as tt
i = int(sys.argv[1])
while True:
    i += 1
    tt.save({"i": i, "a": tt.full((1 << 18,), float(i)), "b": [tt.full((1 << 17,), i)]}, "x")
    print("saved", flush=True)
"""
    last = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(last)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout.readline() == b"saved\n"
        time.sleep(0.05 + rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        back = tt.load(tmp_path / "x", "cpu")
        assert back["i"] > last and (back["a"] == back["i"]).all() and (back["b"][0] == back["i"]).all()
        last = back["i"]
    left = [tmp_path / name for name in os.listdir(tmp_path) if name != "x"]
    for path in left:  # the leftovers of killed processes go with a later save
        os.utime(path, (0, 0))
    tt.save(1, tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes are POSIX's")
def test_links_and_modes_stay(tmp_path):
    tt.save(1, tmp_path / "real")
    os.chmod(tmp_path / "real", 0o640)
    os.symlink("real", tmp_path / "link")
    tt.save(2, tmp_path / "link")
    assert os.path.islink(tmp_path / "link") and tt.load(tmp_path / "real") == 2
    assert os.stat(tmp_path / "real").st_mode & 0o777 == 0o640


def test_no_second_copy_in_memory(tmp_path):
    import tracemalloc

    obj = [tt.ones(1 << 18) for _ in range(8)]  # 8 MiB
    tracemalloc.start()
    try:
        tt.save(obj, tmp_path / "x")
        saved = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        back = tt.load(tmp_path / "x", "cpu")
        loaded = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(back) == 8
    # one tensor at a time may be copied (from a device), and the arrays themselves are what load makes
    assert saved < 2.5 * 2**20 and loaded < 10 * 2**20, (saved, loaded)
