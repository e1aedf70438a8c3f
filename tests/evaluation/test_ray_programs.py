"""Programs with an Evaluator that has a Ray session of its own: interrupted, killed, or ending without closing it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = """
import subprocess, sys
from distnum.evaluation.evaluator import Evaluator

evaluator = Evaluator(2)
print(list(evaluator.map(abs, [-1, -2])), flush=True)
if sys.argv[2] == "computing":
    print(sys.argv[1], flush=True)
    try:
        list(evaluator.map(lambda mark: subprocess.run(["sleep", mark]), [sys.argv[1]] * 2))
    except KeyboardInterrupt:
        print("interrupted", list(evaluator.map(abs, [-3])), flush=True)
        raise
"""


@pytest.mark.parametrize("how", ["interrupted", "killed", "left"])
def test_nothing_is_left_of_a_program(how: str, tmp_path: Path) -> None:
    mark = f"{os.getpid()}{time.time_ns() % 1_000_000:06}"
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    arguments = [sys.executable, str(script), mark, "left" if how == "left" else "computing"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "[1, 2]\n"
        session = psutil.Process(program.pid).children(recursive=True)
        assert session
        if how != "left":
            ends = time.monotonic() + 30
            while not any(["sleep", mark] == one.info["cmdline"] for one in psutil.process_iter(["cmdline"])):
                assert time.monotonic() < ends
                time.sleep(0.05)
            program.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        out, err = program.communicate(timeout=60)
    if how == "interrupted":
        assert out.endswith("interrupted [3]\n")
        assert "KeyboardInterrupt" in err
    if how == "left":
        assert (out, err, program.returncode) == ("", "", 0)
    _, alive = psutil.wait_procs(session, timeout=20)
    assert not alive
    assert not [one.pid for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]
