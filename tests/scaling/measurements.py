"""Measurements of a system whose step times are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distnum.scaling.measurement import Measurement

# Seconds of shared and repeated computing, of all constant parts together, and of each worker (sent a task, answer).
WORK, REPEATED, FIXED, EACH = 2.0, 0.01, 0.002, 0.0005


def measured(workers: int, repeat: int = 1, *, noise: float = 0.0, mode: str = "strong", **changes) -> Measurement:
    compute = (WORK if mode == "weak" else WORK / workers) + REPEATED * (workers if mode == "weak" else 1)
    compute *= 1 + noise * np.random.default_rng((workers, repeat)).standard_normal()
    parts = {
        "broadcast_s": FIXED / 4,
        "dispatch_s": EACH * workers,
        "compute_s": compute,
        "gather_s": FIXED / 4 + EACH * workers,
        "update_s": FIXED / 4,
        "other_s": FIXED / 4,
    }
    measurement = Measurement(
        mode=mode,
        workers=workers,
        threads=1,
        nodes=1,
        repeat=repeat,
        steps=5,
        warmup=1,
        step_s=sum(parts.values()),
        mean_compute_s=compute,
        balance=1.0,
        planned_balance=1.0,
        busy=0.01,
        cores=2,
        asked_over="sockets",
        params_sha256="ab",
        measured_at="2026-11-25T12:00:00+00:00",
        **parts,
    )
    return replace(measurement, **changes)


def even_balance(k: int) -> float:
    return 1.0


def true_step_s(k: int) -> float:
    return WORK / k + REPEATED + FIXED + 2 * EACH * k


MEASURED = [measured(k, repeat, noise=0.01) for repeat in range(1, 6) for k in (1, 2, 4)]


def on_nodes(k: int, n_nodes: int, node_s: float = 0.03) -> Measurement:
    """A measurement in which each further node takes ``node_s`` seconds."""
    one = measured(k, nodes=n_nodes)
    further_s = node_s * (n_nodes - 1)
    return replace(one, gather_s=one.gather_s + further_s, step_s=one.step_s + further_s)


ONCE = [measured(1), measured(2), measured(2, 2, noise=0.01)]
"""One worker measured once, two workers measured twice."""


def square(w, batch):
    return float(w @ w)
