"""Streams that are read one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from distnum.common.errors import InputError
from distnum.evaluation.ray_workers.turns import Turns


def test_a_later_stream_of_the_same_thread_ends_the_first() -> None:
    turns, closed = Turns(), []

    def items() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            closed.append(True)

    first, second = turns.taken_by(items), turns.taken_by(items)
    assert next(first) == 0
    assert not closed
    assert list(second) == [0, 1, 2]
    assert len(closed) == 2
    with pytest.raises(InputError, match="ended this one"):
        next(first)


def test_a_stream_that_nobody_has_any_more_is_closed() -> None:
    turns = Turns()
    stream = turns.taken_by(lambda: iter(range(3)))
    next(stream)
    del stream
    assert turns._open() is None


@pytest.mark.parametrize("ends", ["finished", "left"])
def test_a_stream_of_another_thread_is_waited_for(ends: str) -> None:
    turns, opened, kept = Turns(), threading.Event(), []
    go_on = threading.Event()

    def read() -> None:
        stream = turns.taken_by(lambda: iter(range(3)))
        kept.append(stream)
        assert next(stream) == 0
        opened.set()
        assert go_on.wait(30)
        if ends == "finished":
            assert list(stream) == [1, 2]

    thread = threading.Thread(target=read)
    thread.start()
    assert opened.wait(30)
    got: list[int] = []
    second = threading.Thread(target=lambda: got.extend(turns.taken_by(lambda: iter(range(5)))))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    thread.join(30)
    second.join(30)
    assert got == [0, 1, 2, 3, 4]
