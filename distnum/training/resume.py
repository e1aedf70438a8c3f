"""Continues a run: finds the job that it was begun with, and the state to continue from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distnum.common.errors import InputError
from distnum.differentiation.black_box import LossFunction
from distnum.evaluation.forms import Params
from distnum.storage.checkpoints import State, frozen
from distnum.storage.run_folder import RunFolder
from distnum.training.config import Config, config_of
from distnum.training.from_files import without_connections
from distnum.training.job import Job
from distnum.training.prepare import prepare
from distnum.training.subject import FunctionSubject

__all__ = ["planned_state", "resumed_job"]

log = logging.getLogger("distnum")


def resumed_job(
    run: RunFolder,
    loss: str | LossFunction | None,
    params: Params | None,
    data: Any,
    config: Config | None,
    options: Mapping[str, Any],
) -> tuple[Job, State, dict[str, Any] | None]:
    """The job and the state to continue with.

    The third value holds new values for ``config.toml``; None if nothing has changed.

    Raises:
        InputError: The run cannot be continued with these arguments, or has no usable checkpoint.
    """
    values = run.config_values()
    of_python = values.pop("objective", None) == "python"
    if of_python and not callable(loss):
        raise InputError(
            f"run {run.name!r} trains a Python function; continue it from Python, with "
            "distnum.train(loss, params, ..., out=..., resume=True)."
        )
    if callable(loss) and not of_python:
        raise InputError(f"run {run.name!r} trains a network; leave the loss function out.")
    if config is None:
        given = options if data is None else {**options, "data": data}
        config = without_connections(config_of(values, str(run.config_file)), given, str(run.config_file))
    if not of_python and data is None and config.data == "arrays":
        raise InputError(
            f"run {run.name!r} was trained on arrays from Python; continue it from there, with "
            "distnum.train(data=..., out=..., resume=True)."
        )
    job = prepare(loss, params, data, config, options)
    latest = run.checkpoints.latest()
    if latest is None:
        # A run without checkpoints was stopped early: the first one is written before the second is due.
        if run.rows.n_rows > 2 * job.config.checkpoint_every:
            raise InputError(
                f"run {run.name!r} has done {run.rows.n_rows:,} steps, but no checkpoint is left in its folder "
                "checkpoints; without one, it must be begun anew."
            )
        return job, job.initial, None
    state, kept_identity, notes = latest
    for note in notes:
        log.warning(note)
    kept = kept_identity.get("params")
    if isinstance(job.subject, FunctionSubject) and isinstance(kept, list) and job.identity().get("params") != kept:
        # The keys may come in another order than before; the checkpoint has the order that they had.
        names = [str(line).rpartition(" (")[0] for line in kept]
        job = prepare(loss, job.subject.form.in_order(params, names), data, config, options)
    if job.config.steps < state.step:
        raise InputError(
            f"steps is {job.config.steps}, but {run.name!r} has done {state.step} already; it must not be less."
        )
    _check_same_job(run, job, state, kept_identity)
    if state.params.shape != job.initial.params.shape:
        raise InputError(
            f"the checkpoint of {run.name!r} has {state.params.size:,} parameters, the run's configuration "
            f"{job.initial.params.size:,}; they must be the same."
        )
    new_config = None
    if job.config.steps != values.get("steps", job.config.steps):
        # A later resume then continues to the new number of steps.
        new_config = ({"objective": "python"} if of_python else {}) | values | {"steps": job.config.steps}
    return job, replace(state, params=frozen(state.params)), new_config


def _check_same_job(run: RunFolder, job: Job, state: State, kept_identity: Mapping[str, Any]) -> None:
    """Refuse to continue with a job that would have led to other parameters."""
    where = f"{run.name!r} was trained with"
    identity = job.identity()
    may_differ = set() if job.config.schedule == "cosine" else {"steps"}
    if "params" not in kept_identity:
        may_differ.add("params")  # versions up to 0.1 did not keep it
    for name in sorted({*kept_identity, *identity} - may_differ):
        now, then = identity.get(name), kept_identity.get(name)
        if now == then:
            continue
        if name == "derivative":
            raise InputError(_about_options(now or {}, then or {}, f"{where} {{}} up to step {state.step}"))
        if name == "data_sha256":
            raise InputError(
                f"data {job.config.data} is not what it was: {where} other arrays up to step {state.step} "
                f"(checksum {str(then)[:12]}..., now {str(now)[:12]}...); they must stay the same."
            )
        if name == "steps":
            raise InputError(
                f"steps is {now}, but the cosine schedule of {run.name!r} was made for {then}; it must stay the same."
            )
        raise InputError(f"{name} is {now!r}, but {where} {then!r} up to step {state.step}; it must stay the same.")


def _about_options(now: Mapping[str, str], then: Mapping[str, str], trained: str) -> str:
    """What differs in the options of a function's derivative; ``trained`` has a place for what was given then."""
    option = next(name for name in sorted({*now, *then}) if now.get(name) != then.get(name))
    if option not in now:
        return f"{option} is missing: {trained.format('it')}; give the same again."
    if option not in then:
        return f"{option} is given, but {trained.format('none')}; leave it out."
    return f"{option} is not what it was: {trained.format('another one')}; it must stay the same."


def planned_state(job: Job, run: RunFolder | None, state: State) -> State:
    """The state to roll back to: that of the last planned checkpoint before a state."""
    every = job.config.checkpoint_every
    step = state.step // every * every
    if step == state.step or job.config.on_nonfinite != "rollback":
        return state
    if step == 0:
        return job.initial
    planned = run.checkpoints.at(step) if run is not None else None
    if planned is None:
        log.warning(f"the checkpoint of step {step}, to roll back to, is missing; step {state.step} is used instead.")
        return state
    return planned
