"""Acts as another user of the same machine, where the tests run as root."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable

import pytest

from tests.forks import in_copy, outcome

__all__ = ["OTHER_USER", "all_as_other_user", "as_other_user", "needs_root"]

OTHER_USER = 65534
"""User and group id of ``nobody``, which owns nothing."""

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another user"
)


def as_other_user(action: Callable[[], object]) -> str:
    """Call a function in a process of another user; return its result as text, or its exception's class and message.

    The process is forked, as another user may be unable to start the interpreter of these tests. The function should
    use modules that are imported already.
    """
    return all_as_other_user([action])[0]


def all_as_other_user(actions: Iterable[Callable[[], object]]) -> list[str]:
    """Call functions one after the other in one process of another user; see ``as_other_user``."""

    def act() -> str:
        os.setgroups([])
        os.setgid(OTHER_USER)
        os.setuid(OTHER_USER)
        return json.dumps([outcome(action) for action in actions])

    answers: list[str] = json.loads(in_copy(act))
    return answers
