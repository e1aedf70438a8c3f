"""Memory of a gradient: bounded, and taken from what the gradient before has freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from benchmarks.memory import CODE


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports a process's own peak")
def test_memory_is_bounded_whatever_the_width_and_the_batch() -> None:
    code = CODE.format(sizes=(784, 2000, 10), batch_size=1000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 500


FAULTS = """
import resource
from functools import partial
import numpy as np
from distnum.datasets.dataset import batch_at
from distnum.datasets.readers import load_data
from distnum.networks.dense import Network
from distnum.workers.tiles import all_tiles
from distnum.workers.worker import Task, Worker
from distnum.networks.propagation.objective import Propagation
network = Network((784, 256, 256, 10))
objective = Propagation(network)
worker = Worker(objective, partial(batch_at, load_data(), 0, 500, np.float64))
grad = np.empty(network.n_params)
for step in range(1, 4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    worker.compute(Task(step, step, all_tiles(objective.tiles), first=True), network.initial_params(), grad)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be set to keep freed memory")
def test_a_gradient_takes_the_memory_that_the_one_before_has_freed() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120, check=True)
    *_, last = map(int, done.stdout.split())
    assert last < 300
