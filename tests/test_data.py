"""Datasets, samplers, collation and the DataLoader, with and without worker processes."""
from __future__ import annotations

import collections
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from loader_datasets import Facts, Shares, Squares, keep, mark

import tinytorch_gpu as tt
from tinytorch_gpu.backend.device import backend_of
from tinytorch_gpu.utils import data
from tinytorch_gpu.utils.data import pool

SHM = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[1]
Point = collections.namedtuple("Point", "x y")


def host(tensor):
    """The values of a Tensor on any device."""
    return backend_of(tensor._array).to_host(tensor._array)


def numbers(loader):
    return [host(b[1]).tolist() for b in loader]


def segments(pid=None):
    """The shared memory of this process's loaders (or another's), where it can be seen."""
    gc.collect()  # an exception of an earlier test may still hold its iterator
    prefix = f"tt{pid or os.getpid():x}x"
    return sorted(p.name for p in SHM.iterdir() if p.name.startswith(prefix)) if SHM.exists() else []


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=100):
    end = time.monotonic() + seconds  # far beyond what it takes, for a machine with much else to do
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.05)


# datasets and samplers


def test_datasets_index_and_join():
    d = data.TensorDataset(tt.tensor([[1.0], [2.0], [3.0]]), tt.tensor([4, 5, 6]))
    assert len(d) == 3 and d[1][1].item() == 5
    both = d + data.Subset(d, [2, 0])
    assert [both[i][1].item() for i in (0, 3, 4, -1)] == [4, 6, 4, 4]
    with pytest.raises(IndexError, match="out of range for 5"):
        both[5]
    with pytest.raises(ValueError, match="before the first"):
        both[-6]
    with pytest.raises(AssertionError, match="size mismatch"):
        data.TensorDataset(tt.tensor([1.0]), tt.tensor([1.0, 2.0]))
    assert list(data.ChainDataset([Shares(2), Shares(3)])) == [0, 1, 0, 1, 2]


def test_random_split_is_disjoint_and_seeded():
    parts = data.random_split(range(10), [0.35, 0.65], generator=tt.Generator().manual_seed(3))
    again = data.random_split(range(10), [4, 6], generator=tt.Generator().manual_seed(3))
    assert [len(p) for p in parts] == [4, 6]
    assert sorted(i for p in parts for i in p) == list(range(10))
    assert [list(p) for p in parts] == [list(p) for p in again]
    with pytest.raises(ValueError, match="does not equal the length"):
        data.random_split(range(10), [4, 5])


def test_random_sampler_covers_every_index_once():
    order = list(data.RandomSampler(range(100), generator=tt.Generator().manual_seed(1)))
    assert sorted(order) == list(range(100)) and order != list(range(100))
    assert len(list(data.RandomSampler(range(5), num_samples=12))) == 12
    drawn = list(data.RandomSampler(range(3), replacement=True, num_samples=3000))
    counts = np.bincount(drawn, minlength=3)  # binomial(3000, 1/3): 6 standard deviations are 155
    assert np.abs(counts - 1000).max() < 155
    with pytest.raises(ValueError, match="positive integer"):
        data.RandomSampler([])


def test_weighted_sampler_follows_the_weights():
    generator = tt.Generator().manual_seed(5)
    drawn = list(data.WeightedRandomSampler([0, 1, 3, 0], 4000, generator=generator))
    counts = np.bincount(drawn, minlength=4)
    assert counts[0] == counts[3] == 0 and abs(counts[1] - 1000) < 165  # 6 standard deviations
    firsts = [next(iter(data.WeightedRandomSampler([1.0, 3.0, 0.0], 2, False, generator))) for _ in range(2000)]
    assert abs(firsts.count(1) - 1500) < 117 and 2 not in firsts
    with pytest.raises(ValueError, match="without replacement"):
        data.WeightedRandomSampler([1, 0], 2, replacement=False)


# collation


def test_collate_matches_pytorch():
    torch_data = pytest.importorskip("torch").utils.data
    batches = [
        [1, 2], [True, False], [1.5, 2.5], [1, 2.5], ["a", "b"], [(1, "x"), (2, "y")], [[1, 2.0], [3, 4.0]],
        [{"k": 1}, {"k": 2}], [Point(1, 2.0), Point(3, 4.0)], [np.float32(1), np.float32(2)],
        [np.arange(3, dtype=np.int16), np.arange(3, dtype=np.int16)],
    ]

    def same(ours, theirs):
        if isinstance(ours, tt.Tensor):
            assert str(ours.dtype).rpartition(".")[2] == str(theirs.dtype).rpartition(".")[2]
            np.testing.assert_array_equal(host(ours), theirs.numpy())
        elif isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            for key in ours:
                same(ours[key], theirs[key])
        elif isinstance(ours, str):
            assert ours == theirs
        else:
            assert type(ours) is type(theirs) and len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                same(a, b)

    for batch in batches:
        same(data.default_collate(batch), torch_data.default_collate(batch))
        same(data.default_collate([batch[0]]), torch_data.default_collate([batch[0]]))


def test_collate_stacks_tensors_and_refuses_the_rest():
    assert data.default_collate([tt.tensor([1.0, 2.0])] * 3).shape == (3, 2)
    with pytest.raises(RuntimeError, match="equal size"):
        data.default_collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(RuntimeError, match="equal size"):
        data.default_collate([[1], [1, 2]])
    for bad in ([None], [np.array(["a"])], [1j], [np.uint32(1)]):
        with pytest.raises(TypeError):
            data.default_collate(bad)


# the loader


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_sizes(workers):
    loader = data.DataLoader(Squares(7), batch_size=3, num_workers=workers)
    batches = list(loader)
    assert len(loader) == 3 and [b[0].shape for b in batches] == [(3, 3), (3, 3), (1, 3)]
    assert all(b[0].device.type == tt.get_default_device().type for b in batches)
    np.testing.assert_array_equal(host(batches[1][0])[:, 0], [9.0, 16.0, 25.0])
    assert numbers(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_order_is_the_seed_s_for_any_number_of_workers():
    def epochs(workers):
        loader = data.DataLoader(Squares(20), 4, shuffle=True, num_workers=workers,
                                 generator=tt.Generator().manual_seed(11), persistent_workers=workers > 0)
        return [numbers(loader), numbers(loader)]

    first, second = epochs(0)
    assert first != second and sorted(sum(first, [])) == list(range(20))
    assert epochs(1) == epochs(3) == [first, second]
    tt.manual_seed(4)
    one = numbers(data.DataLoader(Squares(20), 4, shuffle=True))
    tt.manual_seed(4)
    assert numbers(data.DataLoader(Squares(20), 4, shuffle=True)) == one


def test_streams_are_shared_out():
    assert [host(b).tolist() for b in data.DataLoader(Shares(5), 2)] == [[0, 1], [2, 3], [4]]
    loader = data.DataLoader(Shares(7), 2, num_workers=2, persistent_workers=True)
    for _ in range(2):
        assert [host(b).tolist() for b in loader] == [[0, 2], [1, 3], [4, 6], [5]]
    assert [host(b).tolist() for b in data.DataLoader(Shares(7), 2, num_workers=2, drop_last=True)] == [
        [0, 2], [1, 3], [4, 6]]


def test_workers_see_no_gpu_and_are_seeded():
    loader = data.DataLoader(Facts(), None, num_workers=2, worker_init_fn=mark,
                             generator=tt.Generator().manual_seed(2))
    facts = list(loader)
    assert [f["id"] for f in facts] == [0, 1, 0, 1] == [int(f["mark"]) for f in facts]
    assert all(f["visible"] == "-1" and f["device"] == "cpu" and not f["cupy"] for f in facts)
    assert len({f["draw"] for f in facts}) == 4 and len({f["pid"] for f in facts}) == 2
    loader.generator.manual_seed(2)
    assert [f["draw"] for f in loader] == [f["draw"] for f in facts]


def test_persistent_workers_stay_and_the_others_go():
    stay = data.DataLoader(Facts(), None, num_workers=1, persistent_workers=True)
    pids = {f["pid"] for _ in range(2) for f in stay}
    assert len(pids) == 1
    (pid,) = pids
    del stay
    wait_until(lambda: not alive(pid))


def test_early_break_leaves_nothing():
    for facts in data.DataLoader(Facts(), None, num_workers=2):
        pid = facts["pid"]
        break
    del facts
    wait_until(lambda: not alive(pid))
    iterator = iter(data.DataLoader(Squares(50, size=50_000), 4, num_workers=2))
    next(iterator)
    assert segments() or not SHM.exists()
    del iterator
    assert not segments()


def test_batches_grow_and_hold_any_structure():
    arrays = data.DataLoader([[np.zeros(n, np.int8), tt.tensor([n], dtype=tt.bfloat16), "text", None]
                              for n in (1, 300_000, 0, 900_000)], 1, num_workers=1, collate_fn=keep)
    got = [sample for (sample,) in arrays]
    assert [s[0].shape for s in got] == [(1,), (300_000,), (0,), (900_000,)]
    assert all(s[0].flags.writeable and s[1].dtype is tt.bfloat16 and s[2:] == ["text", None] for s in got)
    assert not segments()


def test_a_worker_s_exception_keeps_its_type():
    loader = data.DataLoader(Squares(6, "raise", 3), 2, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(LookupError, match=r"(?s)worker process 1.*Traceback.*no sample 3"):
        next(iterator)
    assert host(next(iterator)[1]).tolist() == [4, 5]  # the other batches still come
    with pytest.raises(KeyError) as caught:
        list(data.DataLoader(Squares(2, "key", 1), 2, num_workers=1))
    assert "\n" in str(caught.value) and "missing" in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_killed_worker_is_named():
    with pytest.raises(RuntimeError, match=r"worker 1 \(pid \d+\) was killed by signal 9"):
        list(data.DataLoader(Squares(6, "kill", 3), 2, num_workers=2))
    assert not segments()


def test_timeout_is_kept():
    loader = data.DataLoader(Squares(4, "sleep", 2), 2, num_workers=1, timeout=100)
    iterator = iter(loader)
    next(iterator)  # a worker's start takes as long as the machine likes
    loader.timeout = 1
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="timed out after 1 seconds"):
        next(iterator)
    assert time.monotonic() - start < 50  # the sample takes 60


@pytest.mark.parametrize("arguments, message", [
    ({"shuffle": True, "sampler": range(3)}, "mutually exclusive with shuffle"),
    ({"batch_size": 2, "batch_sampler": [[0]]}, "batch_sampler option is mutually exclusive"),
    ({"batch_size": None, "drop_last": True}, "disables auto-batching"),
    ({"batch_size": 0}, "positive integer"), ({"num_workers": -1}, "non-negative"), ({"timeout": -1}, "non-negative"),
    ({"timeout": 1}, "num_workers > 0"), ({"prefetch_factor": 2}, "num_workers > 0"),
    ({"persistent_workers": True}, "num_workers > 0"), ({"multiprocessing_context": "spawn"}, "num_workers > 0"),
    ({"num_workers": 1, "prefetch_factor": 0}, "positive integer"),
])  # fmt: skip
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.DataLoader([1, 2, 3], **arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork server")
def test_the_fork_server_imports_the_package_once(monkeypatch, tmp_path):
    from multiprocessing import forkserver

    def modules(chosen):
        monkeypatch.setattr(forkserver._forkserver, "_preload_modules", chosen)
        pool.context_of("forkserver")
        return forkserver._forkserver._preload_modules

    monkeypatch.chdir(tmp_path)
    assert modules(["__main__"])[-1] == "tinytorch_gpu.utils.data.worker"
    assert modules(["json"]) == ["json"]  # the program's own choice
    Path("tinytorch_gpu").mkdir()  # the server would take this one
    assert modules(["__main__"]) == ["__main__", "numpy", "ml_dtypes"]


def test_what_is_not_there_says_so():
    with pytest.raises(NotImplementedError, match="pin_memory"):
        data.DataLoader([1], pin_memory=True)
    with pytest.raises(ValueError, match="fork"):
        data.DataLoader([1], num_workers=1, multiprocessing_context="fork")
    with pytest.raises(ValueError, match="decides its own order"):
        data.DataLoader(Shares(3), shuffle=True)


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
sys.path.insert(0, {tests!r})
from loader_datasets import Facts, Squares
from tinytorch_gpu.utils import data
if __name__ == "__main__":
    facts = iter(data.DataLoader(Facts(), None, num_workers=2))
    print(next(facts)["pid"], next(facts)["pid"], flush=True)
    batches = iter(data.DataLoader(Squares(9, "sleep", 8, size=9000), 2, num_workers=2))
    next(batches)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").exists() or os.name == "nt", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_die_with_the_parent(tmp_path, how):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.format(tests=str(ROOT / "tests"))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment, start_new_session=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert process.stdout.readline() == "ready\n"
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does: the workers get it too
        else:
            process.kill()
        errors = process.communicate(timeout=100)[1]
    wait_until(lambda: not any(alive(pid) for pid in pids) and not segments(process.pid))
    assert "leaked" not in errors
    if how == signal.SIGINT:
        assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
