"""Training for users: ``steps`` yields the loop's records, ``train`` drains it into a run and a result."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from distnum.common.arrays import Array
from distnum.common.errors import InputError, TrainingError
from distnum.common.events import Event
from distnum.differentiation.black_box import LossFunction
from distnum.differentiation.parameters import Params
from distnum.storage.checkpoints import State, params_sha256
from distnum.storage.run_folder import RunFolder
from distnum.training.config import Config
from distnum.training.display import Display
from distnum.training.job import Job
from distnum.training.keeper import Keeper
from distnum.training.loop import Step, run_steps
from distnum.training.placement import estimate_gradient_s, estimate_step_s, open_pool
from distnum.training.prepare import prepare
from distnum.training.result import TrainResult
from distnum.training.resume import planned_state, resumed_job
from distnum.workers.pool import Pool

__all__ = ["steps", "train"]
log = logging.getLogger("distnum")


def steps(
    loss: str | LossFunction | None = None,
    params: Params | None = None,
    *,
    data: Any = None,
    config: Config | None = None,
    **options: Any,
) -> Iterator[Step]:
    """Train, yielding a record a step: for a loop of one's own.

    The arguments are those of ``train``. Nothing is kept on disk; the workers end with the
    generator.

    >>> for step in steps(steps=2, workers=0):
    ...     print(step.step, round(step.loss, 2))
    1 2.44
    2 2.27
    """
    job = prepare(loss, params, data, config, options)
    with open_pool(job) as pool:
        yield from run_steps(job, pool, job.initial)


def train(
    loss: str | LossFunction | None = None,
    params: Params | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    progress: bool = False,
    on_prepared: Callable[[Job, int], None] | None = None,
    on_start: Callable[[Pool, float], None] | None = None,
    on_step: Callable[[Step, dict[str, Any]], bool | None] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a network, or any Python function, by numerical gradients.

    Args:
        loss: a function ``loss(params, batch) -> float`` to make small, or the name of a
            network's loss. Without a function a network is trained.
        params: where a function's training begins: an array, or a dict of arrays.
        data: for a network a name or path as in ``distnum train --data``, a ``Dataset``, or
            ``(x_train, y_train, x_test, y_test)``. For a function an array or a tuple of arrays
            of one length (a batch is ``batch_size`` random rows of each), a ``Dataset`` (a batch
            is ``(x, y)``), a function from the step, counted from 1, to its batch, or None (the
            batch is None).
        out: a folder to keep the run in, or a URI (``s3://bucket/run``); None keeps nothing on disk.
        resume: continue the run in ``out`` from its newest checkpoint.
        config: a configuration to begin with instead of the defaults.
        progress: show on the error stream what ``distnum train`` shows.
        on_prepared: called before the workers start, with the job and the steps done before.
        on_start: called before the first step, with the pool and the seconds that a step is
            estimated to take.
        on_step: called with each step's record and its row; if it returns True, training
            stops there as if interrupted.
        **options: fields of ``Config``: ``steps=200, hidden=(256, 256), workers=2``, ...
            For a function ``h`` is by default chosen for each parameter.

    Returns:
        the result, also if ``on_step`` stopped it (``completed`` is then False).

    Raises:
        InputError: something given cannot be used.
        TrainingError: the loss or the gradient is not finite, or the workers are lost.
        KeyboardInterrupt: as it came; the run has then been saved in ``out``.

    >>> result = train(hidden=20, steps=100, workers=0)
    >>> result.test_accuracy > 0.7
    True
    >>> train(lambda w, batch: float(np.sum((w - 3) ** 2)), np.zeros(2), steps=100, workers=0).params.round(3)
    array([3., 3.])
    """
    began = perf_counter()
    if progress:
        watch = Display(out, quiet=False)
        try:
            return train(
                loss,
                params,
                data=data,
                out=out,
                resume=resume,
                config=config,
                on_prepared=_both(watch.prepared, on_prepared),
                on_start=_both(watch.started, on_start),
                on_step=_both(watch.stepped, on_step),
                **options,
            )
        finally:
            watch.close()
    run: RunFolder | None = None
    if resume:
        if out is None:
            raise InputError("resume is True, but out is not given; it must be the folder of the run.")
        run = RunFolder.open(out)
    try:
        new_config = None
        if run is not None:
            job, state, new_config = resumed_job(run, loss, params, data, config, options)
        else:
            job = prepare(loss, params, data, config, options)
            state = job.initial
            if out is not None:
                run = RunFolder.create(out, job.folder_config())
        if on_prepared is not None:
            on_prepared(job, state.step)
        return _train(job, run, state, resume, new_config, began, on_start, on_step)
    except Exception:
        if run is not None:
            run.discard()  # unless it has been begun
        raise
    finally:
        if run is not None:
            run.close()


def _both(first: Callable[..., Any], second: Callable[..., Any] | None) -> Callable[..., Any]:
    """A callback that calls two, if there are two; what the last returns counts."""

    def call(*arguments: Any) -> Any:
        told = first(*arguments)
        return told if second is None else second(*arguments)

    return call


def _train(
    job: Job,
    run: RunFolder | None,
    state: State,
    resumed: bool,
    new_config: Mapping[str, Any] | None,
    began: float,
    on_start: Callable[[Pool, float], None] | None,
    on_step: Callable[[Step, dict[str, Any]], bool | None] | None,
) -> TrainResult:
    config = job.config
    completed = state.step >= config.steps
    first_step = state.step
    start_s = 0.0
    rows: list[dict[str, Any]] = []

    def begin() -> None:
        # Nothing of a run is touched before its workers are there.
        if run is not None and resumed:
            rows.extend(run.continue_rows(state.step))
            if new_config is not None:
                run.rewrite_config(new_config)

    keeper = Keeper(run, job)
    if completed:
        begin()
    else:
        gradient_s = estimate_gradient_s(job) if on_start or config.workers == "auto" else 0.0
        with open_pool(job, gradient_s, keeper.event) as pool:
            if on_start is not None:
                on_start(pool, estimate_step_s(job, pool, state, gradient_s) + _keeping_s(job, run, state))
            start_s = perf_counter() - began
            begin()
            if resumed:
                keeper.note(Event("resumed", f"continued after step {state.step:,}.", state.step))
            try:
                for step in run_steps(job, pool, state, planned_state(job, run, state), keeper.slices, keeper.event):
                    state = step.state
                    row = step.row() | ({} if np.isfinite(step.loss) else {"skipped": True})
                    completed = state.step >= config.steps
                    if completed or state.step % config.evaluate_every == 0:
                        row |= _test_row(job, state.params)
                    if rows and rows[-1]["step"] >= step.step:
                        del rows[step.step - rows[-1]["step"] - 1 :]
                        keeper.rolled_back(rows)
                    rows.append(row)
                    keeper.row(row)
                    if state.step % config.checkpoint_every == 0 and not completed:
                        keeper.save(state)
                    if on_step is not None and on_step(step, row) and not completed:
                        break
                # Before the workers end, which takes seconds in which the user may lose patience.
                keeper.save(state, now=True)
                keeper.close()
            except BaseException:
                with contextlib.suppress(TrainingError):  # what cannot be written has been said
                    if state.step > first_step:
                        keeper.save(state, now=True)
                    keeper.close()
                raise
            if completed and keeper.slices is not None:
                keeper.slices.clear()

    params = state.params
    test = job.evaluate(params) if completed else None
    of_steps = sum(row["compute_s"] + row["dispatch_gather_s"] + row["update_s"] for row in rows)
    result = TrainResult(
        completed=completed,
        params=job.layout.view(params) if job.layout is not None else params,
        named_params=job.named_params(params),
        metrics=rows,
        test=test,
        network=job.network,
        params_sha256=params_sha256(params),
        seconds={"start": start_s, "steps": of_steps, "total": perf_counter() - began},
        folder=run.location if run is not None else None,
        config=config,
        events=keeper.events,
    )
    if run is not None and completed:
        run.write_model(result.named_params, _about_model(job) | {"params_sha256": result.params_sha256})
        run.write_result(result.to_dict())
    return result


def _keeping_s(job: Job, run: RunFolder | None, state: State) -> float:
    """Seconds a step for the evaluations and checkpoints there are now and then."""
    started = perf_counter()
    job.evaluate(state.params)
    evaluated = perf_counter()
    seconds = (evaluated - started) / job.config.evaluate_every
    if run is None:
        return seconds
    return seconds + run.seconds_to_save(state, job.identity()) / job.config.checkpoint_every


def _test_row(job: Job, params: Array) -> dict[str, float]:
    test = job.evaluate(params)
    if test is None:
        return {}
    row = {"test_loss": test.loss}
    return row if test.accuracy is None else row | {"test_accuracy": test.accuracy}


def _about_model(job: Job) -> dict[str, str]:
    if job.network is None or job.dataset is None:
        return {"format": "distnum-params-1"}
    return {
        "format": "distnum-model-1",
        "sizes": ",".join(str(size) for size in job.network.sizes),
        "activation": job.network.activation.name,
        "loss": job.network.loss_function.name,
        "example_shape": ",".join(str(n) for n in job.dataset.example_shape),
        "pixels": str(job.dataset.x_train.dtype == np.uint8).lower(),
        "data": job.dataset.name,
    }
