"""Training by numerical gradients: the loop, and what surrounds it.

``run_steps`` is the loop itself, one record a step. ``steps`` prepares it for those who
want a loop of their own; ``train`` drains it into a run folder and a result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distnum.config import Config
from distnum.data import Dataset, batch_at, batch_of_rows, load_data
from distnum.errors import InputError, TrainingError
from distnum.metrics import Evaluation, evaluate
from distnum.networks import Network
from distnum.objectives import BlackBox, Layout, LossFunction, Objective, Params
from distnum.optimizers import Optimizer, Schedule, clip
from distnum.plan import assemble, make_shards
from distnum.pools import Pool, RayPool, SerialPool, single_threaded_blas
from distnum.propagation import Propagation
from distnum.runs import RunFolder, State, config_of, machine_facts, params_sha256, version_facts

__all__ = [
    "Job",
    "Step",
    "TrainResult",
    "black_box_job",
    "estimate_gradient_s",
    "network_job",
    "open_pool",
    "run_steps",
    "steps",
    "train",
]

Array = NDArray[np.floating]

log = logging.getLogger("distnum")


# --- what is trained --------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What is trained and how: all that decides the bits.

    Attributes:
        config: with ``data`` naming the data set that was really used.
        objective: what is differenced.
        batch_at: gives the batch of a step, counted from 1.
        initial: the state before the first step.
        network, dataset: None for a black box.
        layout: how a black box wants its parameters; None for a network.
    """

    config: Config
    objective: Objective
    batch_at: Callable[[int], Any]
    initial: State
    network: Network | None = None
    dataset: Dataset | None = None
    layout: Layout | None = None

    @property
    def optimizer(self) -> Optimizer:
        return _optimizer(self.config)

    def evaluate(self, params: Array) -> Evaluation | None:
        """The network on the test examples; None for a black box."""
        if self.network is None or self.dataset is None:
            return None
        return evaluate(self.network, params, self.dataset.x_test, self.dataset.y_test)

    def named_params(self, params: Array) -> dict[str, Array]:
        """The parameters as arrays by name."""
        if self.network is not None:
            return self.network.unpack(params)
        assert self.layout is not None
        view = self.layout.view(params)
        return view if self.layout.names else {"params": view}

    def folder_config(self) -> dict[str, Any]:
        """What ``config.toml`` of the run says."""
        if self.network is not None:
            return self.config.to_dict()
        network_fields = {"data", "hidden", "activation", "loss", "init", "init_std", "method"}
        kept = {name: value for name, value in self.config.to_dict().items() if name not in network_fields}
        return {"objective": "python"} | kept

    def deciding(self) -> dict[str, Any]:
        """What must not change when a run is continued."""
        return {name: value for name, value in self.folder_config().items() if name in self._deciding_names}

    @property
    def _deciding_names(self) -> set[str]:
        return {"objective", *self.config.deciding()}


def _optimizer(config: Config) -> Optimizer:
    return Optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay)


def network_job(config: Config, dataset: Dataset | None = None) -> Job:
    """Training a network on a data set: the one given, or the one that the configuration names.

    Raises:
        InputError: the data cannot be read, or does not fit the configuration.
    """
    if dataset is None:
        dataset = load_data(config.data)
    config = replace(config, data=dataset.name)
    n_train = len(dataset.x_train)
    if config.batch_size > n_train:
        raise InputError(
            f"batch_size is {config.batch_size:,}, but {dataset.name} has {n_train:,} training examples; "
            "it must not be more."
        )
    if config.loss == "cross_entropy" and not dataset.has_labels:
        raise InputError(
            f"loss is 'cross_entropy', but the targets of {dataset.name} are real numbers; "
            "it must be mean_squared_error for them."
        )
    network = Network(
        (dataset.n_inputs, *config.hidden, dataset.n_outputs), activation=config.activation, loss=config.loss
    )
    params = network.initial_params(config.seed, config.init, config.init_std, config.dtype)
    objective: Objective
    if config.method == "propagate":
        objective = Propagation(network, config.scheme, config.step_size)
    else:
        layout = Layout((), ((network.n_params,),))
        objective = BlackBox(
            network.loss, layout, network.n_params, config.scheme, config.step_size, network.param_name
        )
    return Job(
        config=config,
        objective=objective,
        batch_at=partial(batch_at, dataset, config.seed, config.batch_size, config.dtype),
        initial=_initial_state(config, params),
        network=network,
        dataset=dataset,
    )


def black_box_job(loss: LossFunction, params: Params, data: Any, config: Config) -> Job:
    """Training any callable ``loss(params, batch)``.

    Args:
        loss: what to make small.
        params: where to begin: an array or a dict of arrays, float32 or float64.
        data: an array or a tuple of arrays of one length (a batch is ``batch_size`` random
            rows of each), a ``Dataset`` (a batch is ``(x, y)``), a function from the step,
            counted from 1, to its batch, or None (the batch is None).
        config: the fields about networks do not matter.
    """
    layout, flat = Layout.of(params)
    config = replace(config, dtype=str(flat.dtype))
    h = None if config.h == "auto" else float(config.h)
    return Job(
        config=config,
        objective=BlackBox(loss, layout, flat.size, config.scheme, h),
        batch_at=_batches(data, config),
        initial=_initial_state(config, flat),
        layout=layout,
    )


def _batches(data: Any, config: Config) -> Callable[[int], Any]:
    if data is None:
        return _no_batch
    if isinstance(data, Dataset):
        n_rows = len(data.x_train)
        source: Callable[[int], Any] = partial(batch_at, data, config.seed, config.batch_size, config.dtype)
    elif callable(data):
        return cast("Callable[[int], Any]", data)
    else:
        arrays = tuple(np.asarray(one) for one in data) if isinstance(data, (tuple, list)) else np.asarray(data)
        lengths = {len(one) if one.ndim else 0 for one in (arrays if isinstance(arrays, tuple) else (arrays,))}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"data has arrays of {sorted(lengths)} rows; all must have the same number, at least 1.")
        n_rows = lengths.pop()
        source = partial(batch_of_rows, arrays, config.seed, config.batch_size)
    if config.batch_size > n_rows:
        raise InputError(f"batch_size is {config.batch_size:,}, but data has {n_rows:,} rows; it must not be more.")
    return source


def _no_batch(step: int) -> None:
    return None


def _initial_state(config: Config, params: Array) -> State:
    return State(0, _frozen(params), _optimizer(config).initial_state(params))


def _frozen(params: Array) -> Array:
    params.flags.writeable = False
    return params


# --- where it runs ----------------------------------------------------------------------

# Measured: what one more worker adds to a step, and what a step costs beside computing.
_CALL_S = 0.0015
_ROUND_TRIP_S = 0.004
_ESTIMATE_FOR_S = 0.1


def estimate_gradient_s(job: Job) -> float:
    """Seconds that one core needs for one gradient, from computing some of its tiles here."""
    params = job.initial.params.copy()
    with single_threaded_blas():
        point = job.objective.at(params, job.batch_at(1))
        costs = point.costs
        order = np.argsort(-costs, kind="stable")
        if job.objective.thread_safe:
            point.grad_slice(order[:1])  # compiles, or loads what was compiled, outside the measurement
        n_tiles = 1
        while True:
            # Evenly through the costs, so that the sample is like the whole.
            sample = np.sort(order[np.linspace(0, len(order) - 1, n_tiles).astype(np.int64)])
            started = perf_counter()
            point.grad_slice(np.unique(sample))
            elapsed = perf_counter() - started
            if elapsed > _ESTIMATE_FOR_S or n_tiles >= len(order):
                share = costs[np.unique(sample)].sum() / max(costs.sum(), 1e-300)
                return float(elapsed / max(share, 1e-12)) if share else elapsed
            n_tiles = min(8 * n_tiles, len(order))


def best_n_workers(gradient_s: float, n_cpus: int, n_nodes: int = 1) -> int:
    """The number of workers with the shortest step: computing is shared, calls add up."""
    candidates = range(max(1, min(n_nodes, n_cpus)), max(1, n_cpus) + 1)
    return min(candidates, key=lambda k: gradient_s / k + _CALL_S * k)


def estimate_step_s(gradient_s: float, pool: Pool) -> float:
    """Seconds that a step will take with a pool."""
    if isinstance(pool, SerialPool):
        return gradient_s
    return gradient_s / pool.n_workers + _CALL_S * pool.n_workers + _ROUND_TRIP_S


def open_pool(job: Job, gradient_s: float | None = None) -> Pool:
    """The pool that the configuration asks for.

    Args:
        job: what it will compute.
        gradient_s: what a gradient costs, for ``workers = "auto"``; estimated if not given.

    Raises:
        InputError: the objective cannot run so, or the cluster cannot be had.
    """
    config = job.config
    n_threads = 1 if config.threads_per_worker == "auto" else int(config.threads_per_worker)
    if n_threads > 1 and not job.objective.thread_safe:
        raise InputError(
            f"threads_per_worker is {n_threads}, but whole loss functions are evaluated by one thread a worker; "
            "use more workers instead."
        )
    if config.workers == 0:
        if config.address is not None:
            raise InputError(f"address is {config.address!r}, but workers is 0, which uses no Ray; leave one out.")
        return SerialPool(job.objective, job.batch_at, n_threads)
    if config.workers == "auto":
        work_s = gradient_s if gradient_s is not None else estimate_gradient_s(job)

        def n_workers(n_cpus: int, n_nodes: int) -> int:
            return best_n_workers(work_s, n_cpus // n_threads, n_nodes)

        return RayPool(job.objective, job.batch_at, n_workers, n_threads, config.address)
    return RayPool(job.objective, job.batch_at, int(config.workers), n_threads, config.address)


# --- the loop ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One SGD iteration.

    Attributes:
        step: its number, counted from 1.
        loss: of the step's batch, before the update.
        learning_rate: of this step.
        grad_norm: Euclidean norm of the gradient, before clipping.
        loss_evaluations: losses that the gradient took.
        compute_s: seconds of the slowest worker.
        dispatch_gather_s: seconds of planning, sending and gathering beside that.
        update_s: seconds of checking and applying the gradient.
        state: after the update.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    loss_evaluations: int
    compute_s: float
    dispatch_gather_s: float
    update_s: float
    state: State = field(repr=False)

    @property
    def params(self) -> Array:
        """The parameters after the update, flat and read-only."""
        return self.state.params

    def row(self) -> dict[str, Any]:
        """As it stands in ``metrics.jsonl``."""
        return {name: value for name, value in vars(self).items() if name != "state"}


def run_steps(job: Job, pool: Pool, state: State) -> Iterator[Step]:
    """The steps of a job from a state on; the state after each is in its record.

    Raises:
        TrainingError: a loss or a gradient is not finite, or the workers are lost.
    """
    config, objective = job.config, job.objective
    optimizer = job.optimizer
    schedule = Schedule(
        config.schedule, config.learning_rate, config.steps, config.schedule_every, config.schedule_factor
    )
    for number in range(state.step + 1, config.steps + 1):
        started = perf_counter()
        with single_threaded_blas():
            # Which tiles each worker gets: a pure function of the parameters and the batch.
            if pool.n_workers == 1:
                shards = [np.arange(len(objective.tiles) - 1)]
            else:
                shards = make_shards(objective.at(state.params, job.batch_at(number)).costs, pool.n_workers)
            slices = pool.grad_slices(number, state.params, shards)
            grad = np.empty_like(state.params)
            for shard, grad_slice in zip(shards, slices, strict=True):
                assemble(grad, objective.tiles, shard, grad_slice.values)
            gathered = perf_counter()

            loss = slices[0].loss
            assert loss is not None
            _check_finite(job, number, loss, grad)
            learning_rate = schedule.at(number)
            grad, grad_norm = clip(grad, config.clip_norm)
            with np.errstate(over="ignore", invalid="ignore"):
                params, optimizer_state = optimizer.update(
                    grad, state.optimizer_state, state.params, learning_rate, number
                )
            state = State(number, _frozen(params), optimizer_state)
        compute_s = max(grad_slice.compute_s for grad_slice in slices)
        yield Step(
            step=number,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            loss_evaluations=objective.n_evaluations,
            compute_s=compute_s,
            dispatch_gather_s=max(0.0, gathered - started - compute_s),
            update_s=perf_counter() - gathered,
            state=state,
        )


def _check_finite(job: Job, number: int, loss: float, grad: Array) -> None:
    remedy = f"Try a smaller learning rate than {job.config.learning_rate:g}, or clip_norm."
    if not np.isfinite(loss):
        raise TrainingError(f"The loss is {loss} in step {number}. {remedy}")
    if not np.isfinite(grad).all():
        index = int(np.flatnonzero(~np.isfinite(grad))[0])
        raise TrainingError(
            f"The partial derivative of parameter {job.objective.param_name(index)} (index {index}) is {grad[index]} "
            f"in step {number}, with h = {job.config.h}. {remedy}"
        )


# --- for users --------------------------------------------------------------------------


def prepare(
    loss: str | LossFunction | None, params: Params | None, data: Any, config: Config | None, options: Mapping[str, Any]
) -> Job:
    """The job that the arguments of ``train`` and ``steps`` describe."""
    base = config if config is not None else Config()
    if callable(loss):
        if params is None:
            raise InputError("params is missing; a loss function needs the parameters to begin with.")
        if config is None:
            base = replace(base, h="auto")
        return black_box_job(loss, params, data, base.with_changes(options))
    if params is not None:
        raise InputError("params is given without a loss function; a network makes its own parameters from the seed.")
    if loss is not None:
        options = {**options, "loss": loss}
    if isinstance(data, tuple):
        if len(data) != 4:
            raise InputError(f"data is a tuple of {len(data)}; it must be (x_train, y_train, x_test, y_test).")
        x_train, y_train, x_test, y_test = (np.asarray(array) for array in data)
        data = Dataset(x_train, y_train, x_test, y_test)
    if isinstance(data, Dataset):
        return network_job(base.with_changes(options), data)
    if data is not None:
        options = {**options, "data": data}
    return network_job(base.with_changes(options))


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


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        completed: whether all steps were done; False after an interruption.
        params: the trained parameters, in the form in which they were given (a network's: flat).
        named_params: the same as arrays by name: ``W1``, ``b1``, ...
        metrics: the rows of ``metrics.jsonl``.
        test: the evaluation on the test examples; None for a black box.
        network: the trained network; None for a black box.
        params_sha256: over the parameters' bytes.
        seconds: ``start`` of the workers, ``steps`` altogether, ``total`` of this call.
        folder: where the run was kept, or None.
    """

    completed: bool
    params: Any
    named_params: dict[str, Array] = field(repr=False)
    metrics: list[dict[str, Any]] = field(repr=False)
    test: Evaluation | None = field(repr=False)
    network: Network | None
    params_sha256: str
    seconds: dict[str, float]
    folder: Path | None
    config: Config = field(repr=False)

    @property
    def loss(self) -> float:
        """The loss of the last step's batch."""
        return float(self.metrics[-1]["loss"]) if self.metrics else float("nan")

    @property
    def test_accuracy(self) -> float | None:
        """The share of test examples labelled right."""
        return self.test.accuracy if self.test is not None else None

    def predict(self, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """The labels of examples as a data set holds them (bytes are scaled)."""
        from distnum.data import as_inputs

        if self.network is None:
            raise InputError("predict needs a network; this run trained a Python function.")
        return self.network.predict(self.params, as_inputs(np.asarray(x), self.params.dtype))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``result.json``."""
        test = self.test.to_dict() if self.test is not None else None
        return {
            "completed": self.completed,
            "steps": self.metrics[-1]["step"] if self.metrics else 0,
            "loss": self.loss,
            "test_accuracy": self.test_accuracy,
            "test_loss": self.test.loss if self.test is not None else None,
            "params_sha256": self.params_sha256,
            "n_params": sum(array.size for array in self.named_params.values()),
            "seconds": self.seconds,
            "test": test,
            "config": self.config.to_dict(),
            "versions": version_facts(),
            "machine": machine_facts(),
        }


def train(
    loss: str | LossFunction | None = None,
    params: Params | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: Config | None = None,
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
            ``(x_train, y_train, x_test, y_test)``. For a function see ``black_box_job``.
        out: a folder to keep the run in; None keeps nothing on disk.
        resume: continue the run in ``out`` from its newest checkpoint.
        config: a configuration to begin with instead of the defaults.
        on_prepared: called before the workers start, with the job and the steps done before.
        on_start: called before the first step, with the pool and the seconds that a gradient
            is estimated to take on one core.
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
    """
    began = perf_counter()
    run: RunFolder | None = None
    if resume:
        if out is None:
            raise InputError("resume is True, but out is not given; it must be the folder of the run.")
        run = RunFolder.open(Path(out))
    created = False
    try:
        if run is not None:
            job, state, rows = _resumed(run, loss, params, data, config, options)
        else:
            job = prepare(loss, params, data, config, options)
            state, rows = job.initial, []
            if out is not None:
                run, created = RunFolder.create(Path(out), job.folder_config()), True
        if on_prepared is not None:
            on_prepared(job, state.step)
        return _train(job, run, state, rows, began, on_start, on_step)
    except InputError:
        if run is not None and created:
            run.discard()
        raise
    finally:
        if run is not None:
            run.close()


def _resumed(
    run: RunFolder,
    loss: str | LossFunction | None,
    params: Params | None,
    data: Any,
    config: Config | None,
    options: Mapping[str, Any],
) -> tuple[Job, State, list[dict[str, Any]]]:
    values = run.config_values()
    of_python = values.pop("objective", None) == "python"
    if of_python and not callable(loss):
        raise InputError(
            f"run {str(run.path)!r} trains a Python function; continue it from Python, with "
            "distnum.train(loss, params, ..., out=..., resume=True)."
        )
    if callable(loss) and not of_python:
        raise InputError(f"run {str(run.path)!r} trains a network; leave the loss function out.")
    if config is None:
        config = config_of(values, str(run.config_file))
    if not of_python and data is None and config.data == "arrays":
        raise InputError(
            f"run {str(run.path)!r} was trained on arrays from Python; continue it from there, with "
            "distnum.train(data=..., out=..., resume=True)."
        )
    job = prepare(loss, params, data, config, options)
    found = run.latest_checkpoint()
    if found is None:
        return job, job.initial, run.continue_rows(0)
    state, decided, notes = found
    for note in notes:
        log.warning(note)
    if state.params.shape != job.initial.params.shape:
        raise InputError(
            f"the checkpoint of {str(run.path)!r} has {state.params.size:,} parameters, the run's configuration "
            f"{job.initial.params.size:,}; they must be the same."
        )
    deciding = job.deciding()
    for name in sorted({*decided, *deciding} - {"steps"} - (set() if job.config.schedule == "cosine" else {"steps"})):
        if decided.get(name) != deciding.get(name):
            raise InputError(
                f"{name} is {deciding.get(name)!r}, but {str(run.path)!r} was trained with {decided.get(name)!r} "
                f"up to step {state.step}; it must stay the same."
            )
    if job.config.schedule == "cosine" and decided.get("steps") != deciding.get("steps"):
        raise InputError(
            f"steps is {deciding['steps']}, but the cosine schedule of {str(run.path)!r} was laid out for "
            f"{decided.get('steps')}; it must stay the same."
        )
    return job, State(state.step, _frozen(state.params), state.optimizer_state), run.continue_rows(state.step)


def _train(
    job: Job,
    run: RunFolder | None,
    state: State,
    rows: list[dict[str, Any]],
    began: float,
    on_start: Callable[[Pool, float], None] | None,
    on_step: Callable[[Step, dict[str, Any]], bool | None] | None,
) -> TrainResult:
    config = job.config
    completed = state.step >= config.steps
    saved_step = state.step if rows else -1
    start_s = 0.0

    def save(state: State) -> None:
        if run is not None:
            run.save_checkpoint(state, job.deciding(), config.keep_checkpoints)

    if not completed:
        gradient_s = estimate_gradient_s(job) if on_start or config.workers == "auto" else 0.0
        with open_pool(job, gradient_s) as pool:
            start_s = perf_counter() - began
            if on_start is not None:
                on_start(pool, gradient_s)
            try:
                for step in run_steps(job, pool, state):
                    state = step.state
                    row = step.row()
                    completed = state.step >= config.steps
                    if completed or state.step % config.evaluate_every == 0:
                        row |= _test_row(job, state.params)
                    rows.append(row)
                    if run is not None:
                        run.append(row)
                    if completed or state.step % config.checkpoint_every == 0:
                        save(state)
                        saved_step = state.step
                    if on_step is not None and on_step(step, row) and not completed:
                        break
            except KeyboardInterrupt:
                if state.step != saved_step:
                    save(state)
                raise
        if not completed and state.step != saved_step:
            save(state)

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
        folder=run.path if run is not None else None,
        config=config,
    )
    if run is not None and completed:
        run.write_model(result.named_params, _about_model(job) | {"params_sha256": result.params_sha256})
        run.write_result(result.to_dict())
    return result


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
