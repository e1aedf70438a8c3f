"""Makes the result of a differentiation from its entries, and says in one line what is to be known about it."""

from __future__ import annotations

import numpy as np

from distnum.common.errors import NotFiniteError
from distnum.differentiation.derivative import Derivative
from distnum.differentiation.entries import Entries
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.options import Request
from distnum.differentiation.rounds import Rounds
from distnum.differentiation.summary import differing, summary, undefined, unused

__all__ = ["concluded"]


def concluded(
    request: Request,
    rounds: Rounds,
    entries: Entries,
    seconds: float,
    difference: float = 0.0,
    remark: str = "",
    is_complete: bool = True,
) -> Derivative:
    """The derivative.

    Args:
        request: What was differentiated.
        rounds: What was evaluated.
        entries: The entries.
        seconds: How long it took.
        difference: By how much two values at ``x`` differ.
        remark: A further fault; "" if there is none.
        is_complete: Whether coordinates that change nothing were followed up; they are not if the deadline is over.

    Raises:
        NotFiniteError: The function is not finite at ``x``; or, with ``on_error="raise"``, at points that a search
            has not avoided.
    """
    rounds.check_base()
    timed_out = {coordinate for coordinate, _, failure in rounds.failed if failure.kind == "timeout"}
    entries.note_timeouts({coordinate for coordinate in timed_out if coordinate >= 0})
    if request.on_error == "raise" and entries.has(Status.FAILED):
        raise NotFiniteError(rounds.first_not_finite())
    assert rounds.value_form is not None
    if request.x.dtype == np.float32:
        entries.narrow()
    faults = [
        differing(difference, request.form.what) if difference else "",
        undefined(rounds.known_base, request.form, rounds.value_form),
        summary(entries, request.form, rounds.value_form),
        remark,
    ]
    message = " ".join(fault for fault in faults if fault)
    success = not message and is_complete
    if rounds.stopped:
        n = entries.n_missing(request.indices)
        missing = f"{n:,} of {len(request.indices):,} coordinates are missing."
        message = f"Stopped after {request.deadline:g} s: {missing} {message}".strip()
        success = success and n == 0
    if not message:
        message = f"All entries are settled. {unused(entries, request.form)}".strip()
    return Derivative(
        value=rounds.value_form.view(rounds.known_base),
        failures=rounds.failures(),
        n_evals=rounds.n_evals,
        n_cached=rounds.n_cached,
        n_retried=rounds.n_retried,
        evaluation_seconds=rounds.evaluation_seconds,
        seconds=seconds,
        success=success,
        message=message,
        form=request.form,
        value_form=rounds.value_form,
        entries=entries,
        record=rounds.record,
    )
