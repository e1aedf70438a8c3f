"""Messages between driver and workers: what is sent arrives unchanged, and no message executes code."""

from __future__ import annotations

import os
import pickle
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.workers.pool import Reply
from distnum.workers.ray_pool.messages import (
    RayTask,
    from_this_user,
    packed_reply,
    packed_task,
    unpacked_reply,
    unpacked_task,
)
from tests.second_user import as_other_user, needs_root


@pytest.mark.parametrize("variant", [None, 3])
def test_a_task_arrives_unchanged(variant: int | None) -> None:
    task = RayTask(
        7, 3, np.arange(5), True, more=True, n_threads=2, variant=variant, vectors=Path("v"),
        blocks=(Path("b"), (4, 512)), rank=0.1,
    )  # fmt: skip
    received = vars(unpacked_task(packed_task(task)))
    np.testing.assert_array_equal(received.pop("shard"), np.arange(5))
    assert received == {name: value for name, value in vars(task).items() if name != "shard"}


@pytest.mark.parametrize(
    "value", [0.1, 3, None, float("nan"), np.float32(0.1), np.arange(6.0).reshape(2, 3), np.float64(-0.0)]
)
def test_a_reply_arrives_with_the_same_bits(value: Any) -> None:
    answers = np.array([[0.1, -0.0], [np.nan, np.inf]], np.float32)
    received = unpacked_reply(packed_reply(Reply(answers, value, None, 0.25, 0.5, np.array([1e-300]))))
    assert type(received.value) is type(value)
    assert np.asarray(received.value).tobytes() == np.asarray(value).tobytes()
    assert received.answers is not None
    assert received.answers.tobytes() == answers.tobytes()
    assert received.answers.flags.writeable
    assert received.group_s == np.array([1e-300])


class Executes:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_a_pickled_message_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nested = (200_000).to_bytes(4, "little") + b"[" * 200_000
    text = b'{"value": {"dtype": ",f8", "shape": [0]}}'
    odd_type = len(text).to_bytes(4, "little") + text
    for message in (
        pickle.dumps(Executes()),
        nested,
        odd_type,
        b"",
        b"\x02\0\0\0[]",
        b"\x02\0\0\0{}more",
        b"\xff" * 40,
    ):
        for unpacked in (unpacked_task, unpacked_reply):
            with pytest.raises(ValueError):  # noqa: PT011 (several kinds of it)
                unpacked(message)
    assert not Path("executed").exists()


def test_objects_are_not_sent() -> None:
    with pytest.raises(TypeError, match="answers is an array of object"):
        packed_reply(Reply(np.array([Executes()]), 0.0, None, 0.0, 0.0))
    with pytest.raises(TypeError):
        packed_reply(Reply(None, Executes(), None, 0.0, 0.0))


@needs_root
def test_another_user_at_a_socket_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Listener("socket", "AF_UNIX") as listener:
        # Opened on purpose: in a session, no other user can reach the socket.
        for path in (tmp_path, *tmp_path.parents[:-2]):
            path.chmod(0o755)
        Path("socket").chmod(0o666)
        with Client("socket", "AF_UNIX"), listener.accept() as connection:
            assert from_this_user(connection)
        assert as_other_user(lambda: Client("socket", "AF_UNIX").close()) == "None"
        with listener.accept() as connection:
            assert not from_this_user(connection)
