"""What happens to a run beside its steps: workers that come and go, steps that are skipped, files not written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

__all__ = ["Event", "OnEvent", "log_event"]

log = logging.getLogger("distnum")


@dataclass(frozen=True)
class Event:
    """One of them.

    Attributes:
        kind: ``worker_lost``, ``worker_joined``, ``step_skipped``, ``rolled_back``, ...
        text: a sentence for people.
        step: in which it happened; 0 before the first.
        details: numbers and names that belong to it.
    """

    kind: str
    text: str
    step: int
    details: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As it stands in ``events.jsonl``."""
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return {"time": time, "step": self.step, "event": self.kind, "text": self.text} | self.details


OnEvent = Callable[[Event], None]

# What is as it should be.
_EXPECTED = {"worker_joined", "resumed"}


def log_event(event: Event) -> None:
    """Say it: as a warning, or as a remark if it is as it should be; workers at the start are not worth a word."""
    level = logging.WARNING if event.kind not in _EXPECTED else logging.INFO if event.step else logging.DEBUG
    log.log(level, "step %s: %s", f"{event.step:,}", event.text)
