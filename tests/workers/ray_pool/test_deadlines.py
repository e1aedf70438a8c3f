"""How long workers are waited for."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from distnum.workers.ray_pool.channel import Call
from distnum.workers.ray_pool.deadlines import Deadlines
from distnum.workers.ray_pool.messages import RayTask

DAY_S = 86400.0


def call() -> Call:
    return Call(None, RayTask(1, 1, np.arange(1), first=True), load=1.0, sent=perf_counter())


def test_a_function_of_the_users_may_take_any_time() -> None:
    assert Deadlines(None, any_time=True).deadline(call()) > 365 * DAY_S
    assert Deadlines(None).deadline(call()) < DAY_S


def test_a_deadline_that_is_given_holds_for_all_work() -> None:
    for any_time in (False, True):
        assert Deadlines(7.0, any_time).deadline(call()) == 7
