"""A small process that ends programs and removes folders when this process ends without doing so itself.

A process that is killed cannot end the programs it has started, nor remove its temporary folders. This script reads a
pipe from it until the pipe is closed, which happens however that process ends. It is started with the first thing to
guard, once in each process, and only on POSIX systems. It imports nothing of the project, so that it starts in
milliseconds.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

__all__ = ["guard", "release"]

_keys = count()
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def guard(
    *,
    key: int | None = None,
    folder: str | None = None,
    keep: tuple[str, str, int] | None = None,
    mark: str | None = None,
    group: int | None = None,
) -> int:
    """Have something ended or removed when this process ends, unless it is released before.

    Args:
        key: Key of an earlier call to add to; None for a new one.
        folder: A folder to remove; its parent is removed too if it is empty then.
        keep: A folder to keep as that of a failed call: the arguments of ``keep_failed``.
        mark: Text in the environment of processes to kill (only on Linux).
        group: A process group to kill.

    Returns:
        The key, for ``release``.
    """
    key = next(_keys) if key is None else key
    _send({"key": key, "folder": folder, "keep": keep, "mark": mark, "group": group})
    return key


def release(key: int) -> None:
    """Forget what was guarded under this key."""
    _send({"key": key, "release": True})


def _send(message: dict[str, Any]) -> None:
    global _process
    if os.name != "posix":
        return
    with _lock:
        if _process is None:
            from distnum.common import cleanup

            _process = cleanup.start_attendant(__file__, cleanup.__file__)
            _process.wait()  # the script goes on in a copy of itself
        assert _process.stdin is not None
        # If the script was killed, this process still ends its programs and removes its folders itself.
        with contextlib.suppress(OSError):
            _process.stdin.write(json.dumps(message).encode() + b"\n")
            _process.stdin.flush()


def _close() -> None:
    if _process is not None and _process.stdin is not None:
        with contextlib.suppress(OSError):
            _process.stdin.close()


def _forget() -> None:
    """In a copy (fork) of this process, start another script when there is something to guard."""
    global _process, _lock
    _process, _lock = None, threading.Lock()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def main() -> None:
    """Read what to guard until the pipe is closed, then end and remove what is left of it."""
    # Not as a child of the guarded process: killing that with its children must not kill this one.
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    guarded: dict[int, dict[str, Any]] = {}
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if message.pop("release", False):
            guarded.pop(message["key"], None)
        else:
            guarded.setdefault(message["key"], {}).update((name, v) for name, v in message.items() if v is not None)
    find_marked = runpy.run_path(sys.argv[1])["marked"]
    for thing in guarded.values():
        if "group" in thing:
            with contextlib.suppress(OSError):
                os.killpg(thing["group"], signal.SIGKILL)
        if "mark" in thing and sys.platform.startswith("linux"):
            for pid in find_marked(os.fsencode(thing["mark"])):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
    for thing in guarded.values():
        if "folder" in thing:
            shutil.rmtree(thing["folder"], ignore_errors=True)
            with contextlib.suppress(OSError):  # others may be using it
                os.rmdir(os.path.dirname(thing["folder"]))
        if "keep" in thing:
            with contextlib.suppress(OSError):
                runpy.run_path(str(Path(__file__).with_name("kept.py")))["keep_failed"](*thing["keep"])


if __name__ == "__main__":
    main()
