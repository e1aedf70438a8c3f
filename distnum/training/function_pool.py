"""The pool for a Python function: every step is a differentiation at its parameters and its batch."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array
from distnum.common.errors import DeadlineError, InputError, LostError, NotFiniteError, TrainingError
from distnum.common.events import Event, OnEvent, log_event
from distnum.differentiation.derivative import Derivative
from distnum.differentiation.deriving import derived
from distnum.differentiation.judgment.status import SETTLED, Status
from distnum.differentiation.options import Request
from distnum.evaluation.backends import backend_of
from distnum.evaluation.outcomes import Backend
from distnum.evaluation.points import Points
from distnum.evaluation.ray_workers.backend import RayBackend
from distnum.evaluation.stores.backend import stored
from distnum.training.config import Config
from distnum.training.fields import resources_of, workers_range
from distnum.training.kept_evaluations import KeptEvaluations
from distnum.workers.pool import Closing, Gathered, KeptSlices, Timings
from distnum.workers.ray_pool.roster import WorkerCounts

__all__ = ["FunctionPool"]

# Trial evaluations take at most about this many seconds in all, and there are at most this many.
_TRIAL_S, _MOST_TRIALS = 0.5, 20
# Nobody waits longer than this for a trial evaluation.
_LONG_TRIAL_S = 5.0


class FunctionPool(Closing):
    """A ``Pool`` that differentiates a function.

    Args:
        request: What is differentiated, and how; its point and its step are those of each call.
        config: Says where, unless the request has an ``Evaluator``, an executor or a map of the user's.
        on_event: Called with an event when a worker joins, is lost or fails to start, when evaluations fail, and once
            if entries of a gradient are not settled.
        kept: Keeps the evaluations of long steps, unless the user has given a store.

    Raises:
        InputError: The cluster cannot be reached or has too few CPUs, or the store cannot be used.
        TrainingError: The workers do not start.
    """

    n_threads = 1

    def __init__(
        self, request: Request, config: Config, on_event: OnEvent = log_event, kept: KeptEvaluations | None = None
    ) -> None:
        self._request = request
        self._on_event = on_event
        self._kept = kept if request.store is None else None
        self._step = self._n_failed = 0
        self._has_reported = False
        with contextlib.ExitStack() as stack:
            if request.folders is not None:
                stack.enter_context(request.folders)
            own = not isinstance(request.workers, int)  # of the user: an Evaluator, an executor or a map
            if own or config.workers == 0:
                self._backend = stack.enter_context(backend_of(request.workers))
            else:
                ray = stack.enter_context(contextlib.closing(_ray_backend(request, config, self._event)))
                self._backend = ray
            if request.store is not None:
                self._backend = stack.enter_context(stored(self._backend, request.store))
            self._stack = stack.pop_all()
        self._ends: float | None = None

    _backend: Backend

    def _event(self, event: Event) -> None:
        """Pass on an event with the step in which it happened."""
        self._on_event(replace(event, step=self._step))

    @property
    def n_workers(self) -> int:
        """Number of evaluations at the same time."""
        return self._backend.n_workers

    def compute(self, step: int, params: Array, kept: KeptSlices | None = None) -> Gathered:
        """The gradient at ``params`` and the batch of a step; 0 where evaluations failed and need not succeed.

        Raises:
            InputError: The function does not return one real number, or changes an argument.
            NotFiniteError: It is not finite at ``params``, or at points near it that no search has avoided.
            DeadlineError: The deadline is over; evaluations of this step are in the store, if there is one.
            Exception: With ``on_error="raise"``, the function's own.
        """
        self._step = step
        if self._ends is None:  # the time for the workers' start and an estimate does not count
            self._ends = perf_counter() + (np.inf if self._request.deadline is None else self._request.deadline)
        left_s = self._ends - perf_counter()
        if left_s <= 0:
            raise DeadlineError(f"The deadline of {self._request.deadline:g} s is over.")
        call = replace(self._request.call, step=step)
        deadline = None if self._request.deadline is None else left_s
        # A step that is given is not doubted anew in every step of the training.
        advises = not self._has_reported
        request = replace(self._request, x=np.array(params), call=call, deadline=deadline, advises=advises)
        derivative = self._derivative(request)
        value = self._number(derivative)
        grad, failed, n_unsettled = self._gradient(step, derivative)
        compute_s = derivative.evaluation_seconds / max(1, self.n_workers)
        return Gathered(
            grad.astype(params.dtype),
            value,
            None,
            [],
            Timings(compute_s=compute_s, mean_compute_s=compute_s, busy=1.0),
            n_evaluations=derivative.n_evals + derivative.n_cached,
            n_unsettled=n_unsettled,
            failed=failed if len(failed) else None,
        )

    def _derivative(self, request: Request) -> Derivative:
        no_keeping = contextlib.nullcontext(self._backend)
        with no_keeping if self._kept is None else self._kept.step(self._backend, request.call) as backend:
            try:
                derivative = derived(request, backend, full=False)
            except (NotFiniteError, LostError):
                raise
            except InputError as error:
                raise InputError(str(error).replace("fun returned", "the loss returned")) from error.__cause__
            except TrainingError as error:
                if self._ends is not None and perf_counter() > self._ends:
                    raise DeadlineError(f"The deadline of {self._request.deadline:g} s is over.") from None
                if request.limits.raises:
                    raise
                raise NotFiniteError(str(error)) from error  # no value at the parameters themselves
            if derivative.entries.n_missing(request.indices):
                raise DeadlineError(f"The deadline of {self._request.deadline:g} s is over.")
        return derivative

    def _gradient(self, step: int, derivative: Derivative) -> tuple[Array, NDArray[np.int64], int]:
        """The gradient, indices without one, and the number of entries that are not settled; those are reported."""
        indices = self._request.indices
        grad = np.zeros(len(self._request.x))
        grad[indices] = derivative.entries.gradient()[indices].real
        status = derivative.entries.status[0][indices]
        failed = indices[(status == Status.FAILED) | (status == Status.TIMEOUT)]
        grad[failed] = 0.0
        self._report_failures(step, derivative, len(failed))
        if not derivative.success and not self._has_reported:
            self._has_reported = True
            text = f"{derivative.message} Further steps are not reported; n_unsettled in the rows counts such entries."
            self._event(Event("not_settled", text, step))
        unsettled = ~np.isin(status, list(SETTLED))
        if (status == Status.UNCHANGED).all():
            unsettled[:] = True
        return grad, failed, int(unsettled.sum())

    def _report_failures(self, step: int, derivative: Derivative, n_still: int) -> None:
        """Report failed evaluations: the first, the tenth, the hundredth, ..."""
        n_before = self._n_failed
        self._n_failed += len(derivative.failures)
        if not derivative.failures or (n_before and len(str(self._n_failed)) == len(str(n_before))):
            return
        last, n = derivative.failures[-1], self._n_failed
        text = (
            f"{n:,} evaluation{'s have' if n > 1 else ' has'} failed so far, the last one where {last.name} was moved "
            f"by {last.offset:+.6g}: {last.failure.text}."
        )
        if n_still:
            text += (
                f" {n_still:,} parameter{'s keep their values' if n_still > 1 else ' keeps its value'} in this step."
            )
        self._event(Event("evaluations_failed", text, step, {"failed": n}))

    def estimate_step_s(self, step: int, params: Array) -> float:
        """Estimate the seconds of a step, from evaluations at ``params`` where the step would make them.

        If an evaluation takes longer than 5 s, it is not waited for, and the result is a lower bound.

        Raises:
            Exception: The function's own.
        """
        request = self._request
        base = Points(np.array(params), np.empty(0, np.int64), np.array(params)[:0], np.zeros(2, np.int64))
        call = replace(request.call, step=step)
        times: list[float] = []
        began = perf_counter()
        while not times or (perf_counter() - began < _TRIAL_S and len(times) < _MOST_TRIALS):
            limits = replace(request.limits, ends=perf_counter() + _LONG_TRIAL_S)
            seconds = [one.seconds for one in self._backend.evaluate(call, base, limits, lambda _: "before the start")]
            if not seconds or np.isnan(seconds[0]).any():  # it takes longer, or was ended
                times = [request.limits.timeout or _LONG_TRIAL_S]
                break
            times += seconds[0].tolist()
        n = request.n_evaluations
        return float(np.median(times)) * ceil(n / max(1, min(n, self.n_workers)))

    def _number(self, derivative: Derivative) -> float:
        """The loss.

        Raises:
            InputError: The function has not returned one real number.
        """
        value: Any = derivative.value
        if derivative.value_form.size == 1 and not isinstance(value, dict):
            number = complex(np.asarray(value).item())
            # With the complex step, values at other points are complex.
            if number.imag == 0 and (self._request.scheme.imaginary or not np.iscomplexobj(value)):
                return number.real
            raise InputError("the loss returned a complex number; it must return a real one.")
        raise InputError(f"the loss returned {derivative.value_form}; it must return one real number.")

    def close(self) -> None:
        """End the workers that were started for this pool."""
        self._stack.close()


def _ray_backend(request: Request, config: Config, on_event: OnEvent) -> RayBackend:
    """Workers in the number that the configuration asks for; ``"auto"`` is one on each CPU, if there is enough to do.

    Evaluations are handed out as workers become free, so more workers than are needed do not slow a step down.
    """
    least, most = workers_range(config.workers)

    def counts(n_cpus: int, n_nodes: int) -> WorkerCounts:
        n = min(n_cpus, request.n_evaluations if most is None else most)
        return WorkerCounts(least, max(least, n), at_start=least)

    return RayBackend(
        least if least == most else counts,
        config.address,
        resources=resources_of(config.resources),
        wait_s=config.wait_for_workers,
        on_event=on_event,
    )
