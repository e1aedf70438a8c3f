"""Helpers of several tests of whole runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distnum.storage.checkpoints import params_sha256
from distnum.training.job import Job
from distnum.training.loop import run_steps
from distnum.workers.pool import Pool

SMALL: dict[str, Any] = {"hidden": (8,), "steps": 8, "batch_size": 20}


def trained(job: Job, pool: Pool, before_step: Callable[[int], None] = lambda step: None) -> str:
    """Return the checksum of the parameters after a job; ``before_step`` is called with each step before it begins."""
    state = job.initial
    before_step(1)
    for step in run_steps(job, pool, state):
        state = step.state
        before_step(step.step + 1)
    return params_sha256(state.params)
