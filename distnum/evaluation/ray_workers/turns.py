"""Streams of results that must not be read at the same time, of one thread or several."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

from distnum.common.errors import InputError

__all__ = ["Stream", "Turns"]

# Between looks whether the thread of an open stream has ended.
_LOOK_S = 0.5


class Turns:
    """Lets one stream be open at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: Callable[[], Stream | None] = lambda: None

    def taken_by(self, make: Callable[[], Iterator[Any]]) -> Stream:
        """A stream of what ``make`` returns. It is open from its first item to its end.

        It waits for an open stream of another thread, and ends one of the same thread, or of a thread that has ended.

        Raises:
            InputError: It is read after another stream has ended it.
        """
        return Stream(self, make)

    def claim(self, stream: Stream) -> None:
        """Wait until no other stream is open, and open this one."""
        with self._changed:
            while (other := self._open()) is not None:
                if other.thread is threading.current_thread() or not other.thread.is_alive():
                    other.end_for_another()
                    break
                del other
                self._changed.wait(_LOOK_S)
            self._open = weakref.ref(stream)

    def release(self) -> None:
        """Let another stream be opened."""
        with self._changed:
            self._open = lambda: None
            self._changed.notify()


class Stream:
    """One stream.

    Attributes:
        thread: The thread that has opened it.
    """

    def __init__(self, turns: Turns, make: Callable[[], Iterator[Any]]) -> None:
        self.thread = threading.current_thread()
        self._ended = False
        self._items = _items(turns, make, weakref.ref(self))

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        if self._ended:
            raise InputError(
                "a later call of the same thread has ended this one, as workers compute one call at a time; finish it "
                "first, or use another Evaluator."
            )
        return next(self._items)

    def close(self) -> None:
        """Abandon what is not finished."""
        self._items.close()

    def end_for_another(self) -> None:
        """Close the stream for another one."""
        try:
            self._items.close()
        except ValueError:
            raise InputError(
                "these workers are computing another call, within which this one is made; use another Evaluator for it."
            ) from None
        self._ended = True


def _items(
    turns: Turns, make: Callable[[], Iterator[Any]], stream_of: Callable[[], Stream | None]
) -> Generator[Any, None, None]:
    """The items of a stream; without a reference to it, so that it is closed as soon as nobody has it."""
    stream = stream_of()
    assert stream is not None  # it reads the first item
    stream.thread = threading.current_thread()
    turns.claim(stream)
    del stream
    try:
        yield from make()
    finally:
        turns.release()
