"""Events of a run other than its steps: lost and new workers, skipped steps, files that cannot be written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

__all__ = ["Event", "OnEvent", "log_event"]

log = logging.getLogger("distnum")


def _can_be_shown(record: logging.LogRecord) -> bool:
    """Whether a log record reaches anybody: without a handler, the logging module fails on a closed error stream."""
    return log.hasHandlers() or not getattr(sys.stderr, "closed", False)


log.addFilter(_can_be_shown)


@dataclass(frozen=True)
class Event:
    """One event of a run.

    Attributes:
        kind: ``worker_lost``, ``worker_joined``, ``step_skipped``, ``rolled_back``, ...
        text: A sentence for the user.
        step: The step in which it happened; 0 before the first.
        details: More numbers and names.
    """

    kind: str
    text: str
    step: int
    details: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the event as a row of ``events.jsonl``, with the present time."""
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return {"time": time, "step": self.step, "event": self.kind, "text": self.text} | self.details


OnEvent = Callable[[Event], None]
"""A function that is called with each event."""

# Events without a fault.
_EXPECTED = {"worker_joined", "resumed"}


def log_event(event: Event) -> None:
    """Log the event: faults as warnings, other events at INFO, or at DEBUG before the first step."""
    level = logging.WARNING if event.kind not in _EXPECTED else logging.INFO if event.step else logging.DEBUG
    log.log(level, "step %s: %s", f"{event.step:,}", event.text)
