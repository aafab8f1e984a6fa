"""Datasets of tests/test_data.py, apart from it: workers import this file, and pytest would slow their start."""
from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np

import tinytorch_gpu as tt
from tinytorch_gpu.utils import data


class Squares(data.Dataset):
    """(row, its number) with an optional fault at one index."""

    def __init__(self, n, fault=None, at=None, size=3):
        self.n, self.fault, self.at, self.size = n, fault, at, size

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i == self.at:
            if self.fault == "raise":
                raise LookupError(f"no sample {i}")
            if self.fault == "key":
                return {}["missing"]
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "sleep":
                time.sleep(60)
        return np.full(self.size, i * i, np.float32), i


class Shares(data.IterableDataset):
    """0 .. n-1, dealt out to the workers."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        info = data.get_worker_info()
        return iter(range(self.n)) if info is None else iter(range(info.id, self.n, info.num_workers))


class Facts(data.Dataset):
    """What a worker knows and sees."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        info = data.get_worker_info()
        return {
            "id": -1 if info is None else info.id, "cupy": "cupy" in sys.modules, "draw": random.random(),
            "pid": os.getpid(), "device": str(tt.get_default_device()),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "mark": os.environ.get("TEST_DATA_MARK", ""),
        }


def keep(samples):
    return samples


def mark(worker_id):
    os.environ["TEST_DATA_MARK"] = str(worker_id)
