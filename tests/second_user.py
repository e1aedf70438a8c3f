"""Acts as another user of the same machine, where the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.forks import in_copy

__all__ = ["OTHER_USER", "as_other_user", "needs_root"]

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

    def act() -> object:
        os.setgroups([])
        os.setgid(OTHER_USER)
        os.setuid(OTHER_USER)
        return action()

    return in_copy(act)
