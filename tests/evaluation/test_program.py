"""Programs as functions: exact numbers, results, failures with their reasons, and no process or folder left."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.programs.program import Program, ProgramError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the programs are for POSIX shells")

EXAMPLE = Path(__file__).parents[2] / "examples" / "external_program"


def shell(script: str, **options: Any) -> Program:
    return Program(script, shell=True, **options)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, at most half a minute."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def folders(workdir: Path) -> list[str]:
    return sorted(path.name for path in workdir.glob("distnum-program-*"))


# Numbers reach the program as they are.


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_are_written_so_that_they_are_read_back_with_the_same_bits(double: float, single: float) -> None:
    program = Program("model ${a}", files={"in": "${b[1]}\n${b}"})
    command, texts = program.filled({"a": double, "b": np.array([0, single], np.float32)})
    assert float(command[1]).hex() == double.hex()
    one, whole = texts["in"].splitlines()
    assert np.float32(one).tobytes() == np.float32(single).tobytes()
    assert np.array(whole.split(), np.float32).tolist() == [0, single]


def test_a_program_computes_what_python_does() -> None:
    program = Program(["awk", '{printf "%.17g", $1 * $2}', "in.txt"], files={"in.txt": "${x[0]} ${x[1]}\n"})
    for x in np.random.default_rng(3).normal(size=(20, 2)):
        assert program(x) == x[0] * x[1]


def test_names_are_those_of_nested_dicts_lists_and_arrays() -> None:
    program = Program(
        ["model", "${x}", "--x=${x}", "${n}"], files={"in": "${layers[0].W[1, 0]} ${ layers[0].W[0,0] } ${layers[0].W}"}
    )
    command, texts = program.filled({"x": np.array([1.0, 2.0]), "n": 3, "layers": [{"W": np.array([[1.5], [2.5]])}]})
    assert command == ["model", "1.0", "2.0", "--x=1.0 2.0", "3"]
    assert texts == {"in": "2.5 1.5 1.5\n2.5"}


def test_braces_dollars_bytes_and_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    text = b'{"a": {"b": [${x}]}} $HOME $$ {x} {{x}} $${x} \xff \r\n'
    (tmp_path / "template").write_bytes(text)
    program = shell("cat in.json", files={"in.json": tmp_path / "template"}, read=_stdout)
    assert program(0.1) == text.replace(b" $${x}", b" ${x}").replace(b"[${x}]", b"[0.1]")


def _stdout(folder: Path) -> bytes:
    return (folder / "stdout.txt").read_bytes()


def test_an_argument_with_spaces_or_quotes_reaches_the_program_as_one() -> None:
    assert Program("printf '%s' '$HOME;' a\\ b ${x}", read=_stdout)(1.0) == b"$HOME;a b1.0"


@pytest.mark.parametrize(
    ("files", "x", "words"),
    [
        ({"in": "a\n${aplha}"}, {"alpha": 1.0}, ["in, line 2", "${aplha}", "alpha"]),
        ({"in": "${k[3]}"}, {"k": np.ones(3)}, ["in, line 1", "${k[3]}", "(3,)"]),
        ({"in": "${k[-1]}"}, {"k": np.ones(3)}, ["in, line 1", "${k[-1]}"]),
        ({"in": "${alpha}"}, {"alpha": 1.0, "beta": 2.0}, ["does not use beta", "in"]),
        ({"in": "${k[0]} ${k[2]}"}, {"k": np.ones(3)}, ["does not use k[1]"]),
        ({"in": "${a}"}, {"a": 1j}, ["a is 1j", "real"]),
        ({"in": "${a}"}, {"a": "text"}, ["a is", "text"]),
        ({"in": "${a[1]}"}, {"a": np.array([0, np.nan])}, ["a[1] is nan"]),
        ({"in": lambda x: 3}, 1.0, ["function for 'in'", "returned 3", "text"]),
    ],
)
def test_arguments_that_do_not_fit_are_refused(files: Any, x: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Program("true", files=files)(x)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": "true"}, ["uses no parameter"]),
        ({"files": {"in": "alpha = {alpha}"}}, ["in uses no parameter"]),
        ({"files": {"in": "\n${alpha"}}, ["in, line 2"]),
        ({"files": {"in": "${}"}}, ["in, line 1"]),
        ({"files": {"/in": "${x}"}}, ["/in", "inside"]),
        ({"files": {"../in": "${x}"}}, ["../in", "inside"]),
        ({"files": {"in": 3}}, ["in", "3"]),
        ({"files": {"stdout.txt": "${x}"}}, ["stdout.txt"]),
        ({"files": {"in": Path("/nowhere/in")}}, ["/nowhere/in"]),
        ({"files": {"in": "${x}"}, "read": "text:./in"}, ["in", "input file"]),
        ({"command": ""}, ["command"]),
        ({"command": "a 'b ${x}"}, ["command", "quotation"]),
        ({"command": ["a ${x}"], "shell": True}, ["shell=True"]),
        ({"command": "./model ${x}"}, ["./model", "not found"]),
        ({"read": "csv:a"}, ["csv:a", "json:FILE"]),
        ({"read": "regex:a"}, ["regex:a"]),
        ({"read": "regex:a:("}, ["regular expression"]),
        ({"read": "text:/etc/passwd"}, ["/etc/passwd"]),
        ({"read": 3}, ["read is 3"]),
        ({"timeout": 0}, ["timeout", "above 0"]),
        ({"keep": "some"}, ["keep", "failed"]),
        ({"max_kept": 1}, ["max_kept is 1", "at least 2"]),
        ({"copy": "/nowhere/mesh"}, ["/nowhere/mesh"]),
        ({"stdin": "data"}, ["stdin names 'data', which is neither in files nor in copy"]),
        ({"workdir": __file__}, ["workdir is", "which is no folder"]),
        ({"command": ["model", 3, "${x}"]}, ["command", "3 in it is no text"]),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Program(**{"command": "model ${x}", **options})
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


# Results.


@pytest.mark.parametrize(
    ("output", "read", "value"),
    [
        ("1.5", "stdout", 1.5),
        ("1 2\n3", "stdout", [1, 2, 3]),
        ("-1.5D+02", "stdout", -150),
        ("nan", "stdout", np.nan),
        ('{"a": {"b": [1, {"c": 2.5}]}}', "json:stdout:a.b[1].c", 2.5),
        ('{"a": {"b": [1, {"c": 2.5}]}}', "json:stdout:a.b.0", 1),
        ("[[1, 2], [3, 4]]", "json:stdout", [[1, 2], [3, 4]]),
        ("it 1\ncost: 2.5e3 J\n", r"regex:stdout:^cost: (\S+)", 2500),
        ("cost: 1\ncost: 2\n", r"regex:stdout:(?s:.*)cost: (\S+)", 2),
        ("a:1:2", "regex:stdout:a:1:([0-9])", 2),
    ],
)
def test_results_are_read(output: str, read: str, value: Any) -> None:
    got = Program(["printf", "%s%.0s", output, "${x}"], read=read)(1.0)
    np.testing.assert_array_equal(got, value)
    assert isinstance(got, float if np.ndim(value) == 0 else np.ndarray)


def test_several_results_have_names() -> None:
    text = '{"cost": 2, "loads": {"left": [1, 2], "right": 3}}'
    program = Program(["printf", "%s%.0s", text, "${x}"], read={"cost": "json:stdout:cost", "all": "json:stdout:loads"})
    result = program(1.0)
    assert result["cost"] == 2
    assert result["all"]["left"].tolist() == [1, 2]
    assert result["all"]["right"] == 3


@pytest.mark.parametrize(
    ("script", "read", "words"),
    [
        ("", "stdout", ["no number", "stdout.txt"]),
        ("echo 1; echo 2 apples", "stdout", ["apples", "line 2"]),
        ("echo '**********'", "stdout", ["**********"]),
        ("echo 1_000", "stdout", ["1_000"]),
        ("", "json:out.json", ["not written 'out.json'"]),
        ("mkdir out.json", "json:out.json", ["has left 'out.json', which is no file"]),
        ("mkfifo out.txt", "text:out.txt", ["has left 'out.txt', which is no file"]),
        ("touch out.json", "json:out.json", ["has left 'out.json' empty"]),
        ("head -c 900 /dev/zero > out.txt", "text:out.txt", ["...", "where a number is read (out.txt, line 1)"]),
        ("echo '{'", "json:stdout", ["not JSON"]),
        ("echo '{\"a\": 1}'", "json:stdout:b", ["'b'", "not there"]),
        ("echo '{\"a\": null}'", "json:stdout:a", ["None", "not a number"]),
        ("echo '[1, true, [2]]'", "json:stdout", ["not a number"]),
        ("echo '\"1.5\"'", "json:stdout", ["1.5", "not a number"]),
        ("echo a", "regex:stdout:b([0-9])", ["matches"]),
        ("echo b1 b2", "regex:stdout:b([0-9])", ["2 texts", "'1'", "'2'", "(?s:.*)"]),
    ],
)
def test_results_that_are_missing_or_ambiguous_are_failures(
    script: str, read: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ProgramError) as caught:
        shell(f"{script}\n: ${{x}}", read=read, workdir=tmp_path)(1.0)
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.exit_code == 0
    assert caught.value.folder is not None
    assert caught.value.folder.is_dir()


def test_an_old_result_among_the_copied_files_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("1.5")
    with pytest.raises(ProgramError, match=r"has not written 'out\.txt'"):
        shell(": ${x}", copy=tmp_path / "out.txt", read="text:out.txt", keep="none")(1.0)


# Files, folders, environment.


def test_files_are_written_copied_and_given_as_standard_input(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "nodes").write_text("2")
    (tmp_path / "factor").write_text("10")
    program = Program(
        ["./run.sh"],
        files={
            "run.sh": '#!/bin/sh\nread y\necho "${x} $y $(cat mesh/nodes) $(cat factor) $(cat sub/z) $WIND"\n',
            "in": _y,
            "sub/z": "${x}",
        },
        copy=[tmp_path / "mesh", tmp_path / "factor"],
        stdin="in",
        env={"WIND": "7"},
    )
    assert program(0.5).tolist() == [0.5, 1.5, 2, 10, 0.5, 7]


def _y(x: float) -> str:
    return f"{x + 1!r}\n"


def test_each_call_has_a_folder_of_its_own_that_only_this_user_can_enter(tmp_path: Path) -> None:
    program = shell("echo ${x} > in; sleep 0.05; cat in; stat -c %a . >&2", workdir=tmp_path / "new", keep="all")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(program, [float(i) for i in range(8)])) == list(range(8))
    assert len(folders(tmp_path / "new")) == 8
    for name in folders(tmp_path / "new"):
        assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o700


@pytest.mark.parametrize(("keep", "good", "failed"), [("failed", 0, 1), ("none", 0, 0), ("all", 1, 1)])
def test_folders_are_kept_as_asked(keep: str, good: int, failed: int, tmp_path: Path) -> None:
    shell("echo ${x}", workdir=tmp_path / "good", keep=keep)(1.0)
    with pytest.raises(ProgramError) as caught:
        shell("echo why; exit 2; echo ${x}", workdir=tmp_path / "failed", keep=keep)(1.0)
    assert len(folders(tmp_path / "good")) == good
    assert len(folders(tmp_path / "failed")) == failed
    assert (caught.value.folder is None) == (failed == 0)
    assert ("kept" in str(caught.value)) == (failed == 1)


def test_the_first_and_the_newest_failed_folders_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    def fail(number: int) -> ProgramError:
        # Made anew in each call, and sent to another process.
        program = pickle.loads(pickle.dumps(shell("exit 3; ${x}", workdir=tmp_path, max_kept=4)))
        with pytest.raises(ProgramError) as caught:
            program(float(number))
        assert caught.value.folder is not None
        return caught.value

    errors = [fail(i) for i in range(5)]
    with ThreadPoolExecutor(4) as threads:
        errors += threads.map(fail, range(5, 50))
    errors += [fail(i) for i in range(50, 52)]
    first, newest = [error.folder.name for error in errors[:2]], [error.folder.name for error in errors[-2:]]
    assert folders(tmp_path) == sorted(first + newest)
    (record,) = tmp_path.glob("distnum-failed-*.json")
    known = json.loads(record.read_text())
    assert (known["failed_calls"], known["removed_folders"], known["kept"]) == (52, 48, first + newest)
    assert "max_kept=4" in known["reason"]
    messages = [str(error) for error in errors]
    assert f"Its folder is kept: '{errors[1].folder}'." in messages[1]
    assert f"Its folder is kept until 2 more calls fail: '{errors[3].folder}'." in messages[3]
    assert messages[-1].endswith("; of 52 failed calls, 48 folders are removed (max_kept=4).")
    # Folders that the user has removed make place for others.
    for name in first:
        shutil.rmtree(tmp_path / name)
    assert len([fail(i) for i in range(3)]) == 3
    assert len(folders(tmp_path)) == 4


def test_processes_share_the_limit_and_folders_of_killed_ones_count(tmp_path: Path) -> None:
    program = shell("exit ${x}", workdir=tmp_path, max_kept=2)
    (tmp_path / "hangs").mkdir()
    hangs = shell("touch started; sleep 1000; : ${x}", workdir=tmp_path / "hangs", max_kept=2)
    code = (
        "import pickle, sys; program = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "for _ in range(10):\n"
        "    try:\n"
        "        program(eval(sys.argv[2]))\n"
        "    except Exception as error:\n"
        "        print(error)\n"
    )

    def start(one: Program, x: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, pickle.dumps(one).hex(), x], stdout=subprocess.DEVNULL)

    processes = [start(program, "1") for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    (record,) = tmp_path.glob("distnum-failed-*.json")
    known = json.loads(record.read_text())
    assert (known["failed_calls"], known["removed_folders"]) == (20, 18)
    assert folders(tmp_path) == sorted(known["kept"])

    for n in range(1, 4):
        worker = start(hangs, "1.0")
        until(lambda n=n: len(list((tmp_path / "hangs").glob("*/started"))) == min(n, 3))
        worker.kill()
        worker.wait()
        until(lambda n=n: _failed_calls(tmp_path / "hangs") == n)
        until(lambda n=n: len(folders(tmp_path / "hangs")) == min(n, 2))


def _failed_calls(folder: Path) -> int:
    try:
        (record,) = folder.glob("distnum-failed-*.json")
        return int(json.loads(record.read_text())["failed_calls"])
    except ValueError:  # it is not there, or being written
        return 0


def test_a_failed_folder_that_cannot_be_counted_is_removed_and_the_message_says_so(tmp_path: Path) -> None:
    program = shell("exit 3; ${x}", workdir=tmp_path)
    with pytest.raises(ProgramError):
        program(1.0)
    (record,) = tmp_path.glob("distnum-failed-*.json")
    record.unlink()
    record.mkdir()
    with pytest.raises(ProgramError, match=r"exit code 3\. Its folder is not kept: .*Is a directory") as caught:
        program(2.0)
    assert caught.value.folder is None
    assert len(folders(tmp_path)) == 1
    record.rmdir()
    record.write_text('{"failed_calls": ')  # its writer was killed
    with pytest.raises(ProgramError, match="Its folder is kept"):
        program(3.0)


def test_a_program_can_be_pickled_and_is_known_by_what_it_computes(tmp_path: Path) -> None:
    (tmp_path / "mesh").write_text("1")
    options: dict[str, Any] = {"files": {"in": "${x}"}, "copy": tmp_path / "mesh", "read": "text:in2"}
    program = Program("cp in in2", **options)
    again = pickle.loads(pickle.dumps(program))
    assert again(2.5) == 2.5
    assert repr(again) == repr(program) == "Program('cp in in2', files=['in'], read='text:in2')"
    same = program.identity()
    assert again.identity() == same == Program("cp in in2", **options, timeout=3, keep="none").identity()
    for changed in (
        Program("cp in in2 ", **{**options, "read": "text:in3"}),
        Program("cp -f in in2", **options),
        Program("cp in in2", **{**options, "files": {"in": "${x} "}}),
        Program("cp in in2", **options, env={"A": "1"}),
    ):
        assert changed.identity() != same
    (tmp_path / "mesh").write_text("2")
    assert program.identity() != same
    assert "bytes, changed 20" in program.executable()
    assert "not found" in Program("no-such-program ${x}").executable()


# Failures, and no process left.


def test_a_failure_says_what_ran_how_it_ended_and_what_it_wrote(tmp_path: Path) -> None:
    program = shell("echo ${x} >&2; echo mesh is broken >&2; echo step 1; exit 7", workdir=tmp_path)
    with pytest.raises(ProgramError) as caught:
        program(0.25)
    error = caught.value
    first, *rest = str(error).splitlines()
    for word in ("echo 0.25", "exit code 7", "mesh is broken", str(error.folder)):
        assert word in first
    assert "    0.25" in rest
    assert error.exit_code == 7
    assert not error.timed_out
    assert error.folder is not None
    assert (error.folder / "stderr.txt").read_text() == "0.25\nmesh is broken\n"
    assert (error.folder / "stdout.txt").read_text() == "step 1\n"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.exit_code, again.folder) == (str(error), 7, error.folder)


def test_a_signal_is_named() -> None:
    with pytest.raises(ProgramError, match="SIGSEGV") as caught:
        shell("kill -SEGV $$; : ${x}", keep="none")(1.0)
    assert caught.value.exit_code == -signal.SIGSEGV


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0o755, "it is a folder"),
        ("echo 1\n", 0o644, r"it is not executable; chmod \+x makes it so"),
        ("echo 1\n", 0o755, r"it is no program of this system; a script must begin with '#!' and its interpreter"),
        ("#!/no/such/interpreter\n", 0o755, "the interpreter that its first line names, or a library, is not there"),
    ],
)
def test_a_program_that_cannot_be_started_is_one_line(
    content: str | None, mode: int, reason: str, tmp_path: Path
) -> None:
    model = tmp_path / "my model"
    if content is None:
        model.mkdir()
    else:
        model.write_text(content)
    model.chmod(mode)
    with pytest.raises(ProgramError) as caught:
        Program([model, "${x}"], workdir=tmp_path / "work")(1.0)
    assert re.fullmatch(
        f"The program \"'{model}' 1.0\" cannot be started: '{model}': {reason}. "
        f"Its folder is kept: '{caught.value.folder}'.",
        str(caught.value),
    )


def test_a_program_that_is_not_found_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^the program 'no-such-program' is not found on the PATH\.$"):
        Program("no-such-program ${x}", workdir=tmp_path)(1.0)
    with pytest.raises(InputError, match=r"^the program 'awk' is not found on the PATH of env, '/nowhere'\.$"):
        Program("awk ${x}", workdir=tmp_path, env={"PATH": "/nowhere"})(1.0)
    assert folders(tmp_path) == []
    (tmp_path / "my models").mkdir()
    (tmp_path / "my models" / "beam").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^the program '\./my' is not found .*; a path with spaces needs quotes\.$"):
        Program("./my models/beam ${x}")


def test_an_argument_that_names_a_file_of_the_current_directory_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.sh").write_text("echo 1\n")
    monkeypatch.chdir(tmp_path)
    program = Program("sh model.sh ${x}", keep="none")
    with pytest.raises(ProgramError, match=r"; 'model\.sh' is not in its folder: give the full path, or .* in copy\.$"):
        program(1.0)
    assert Program("sh model.sh ${x}", copy="model.sh")(1.0) == 1
    with pytest.raises(ProgramError) as caught:
        Program(["sh", "-c", "exit 1", "model.sh", "${x}"], keep="none")(1.0)
    assert "copy" not in str(caught.value)  # that was not the reason


def test_a_long_line_of_output_is_shortened() -> None:
    with pytest.raises(ProgramError) as caught:
        shell("yes a | head -c 100000 | tr '\\n' a >&2; exit 1; ${x}", keep="none")(1.0)
    assert len(str(caught.value)) < 500


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    program = Program("cat in", files={"in": "${x}"}, workdir=tmp_path, keep="none")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ProgramError, match="No space left on device") as caught:
        program(1.0)
    assert "\n" not in str(caught.value)
    assert folders(tmp_path) == []
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        program(1.0)


def test_an_exception_of_the_reading_function_is_raised_as_it_is_and_the_folder_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        shell("echo ${x}", read=lambda folder: 1 / 0, workdir=tmp_path)(1.0)
    assert len(folders(tmp_path)) == 1


# A child in the group of the program, and one that has left it. PIDS is the folder where each writes its id.
CHILDREN = f"""
sleep 1000 & echo $! > PIDS/child
cat > other.py << 'END'
import os, time
os.setsid()
open("PIDS/other", "w").write(str(os.getpid()))
time.sleep(1000)
END
{sys.executable} -S other.py &
while [ ! -s PIDS/other ]; do sleep 0.01; done
echo $$ > PIDS/new && mv PIDS/new PIDS/shell
: ${{x}}
wait
"""


def with_children(folder: Path) -> str:
    return CHILDREN.replace("PIDS", str(folder))


def pids(folder: Path) -> list[int]:
    return [int((folder / name).read_text()) for name in ("child", "other", "shell")]


@pytest.mark.skipif(sys.platform != "linux", reason="processes that leave the group are found on Linux only")
def test_the_time_limit_ends_the_program_with_all_that_it_has_started(tmp_path: Path) -> None:
    for limit in (0.5, 1, 2, 4, 8):  # until one is longer than the start of the children takes
        program = shell(with_children(tmp_path), timeout=limit, workdir=tmp_path)
        with pytest.raises(ProgramError, match=f"time limit of {limit} s") as caught:
            program(1.0)
        if (tmp_path / "shell").exists():
            break
    assert caught.value.timed_out
    assert caught.value.exit_code is None
    assert caught.value.folder is not None
    assert caught.value.folder.is_dir()
    until(lambda: not any(map(is_running, pids(tmp_path))))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupted_call_ends_the_program(tmp_path: Path) -> None:
    def interrupt() -> None:
        until((tmp_path / "shell").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        shell(with_children(tmp_path), workdir=tmp_path)(1.0)
    thread.join()
    until(lambda: not any(map(is_running, pids(tmp_path))))
    assert folders(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_program_ends_when_the_worker_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from distnum.evaluation.programs.program import Program; "
        "Program(sys.argv[1], shell=True, workdir=sys.argv[2], keep='none')(1.0)"
    )
    script = with_children(tmp_path)
    worker = subprocess.Popen([sys.executable, "-c", code, script, tmp_path])
    try:
        until((tmp_path / "shell").exists)
        assert all(map(is_running, pids(tmp_path)))
    finally:
        worker.kill()
        worker.wait()
    until(lambda: not any(map(is_running, pids(tmp_path))))
    until(lambda: folders(tmp_path) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_killed_program_has_started_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="SIGKILL"):
        shell(with_children(tmp_path).replace("wait", "kill -KILL $$"), keep="none")(1.0)
    until(lambda: not any(map(is_running, pids(tmp_path))))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_program_leaves_behind_in_its_group_is_ended(tmp_path: Path) -> None:
    assert shell(f"sleep 1000 & echo $! > {tmp_path}/child; echo ${{x}}")(1.5) == 1.5
    until(lambda: not is_running(int((tmp_path / "child").read_text())))


def test_without_descriptors_of_processes_it_waits_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refused, raising=False)
    assert shell("echo ${x}", timeout=30)(1.5) == 1.5
    with pytest.raises(ProgramError, match="time limit"):
        shell("sleep 1000; : ${x}", timeout=0.05, keep="none")(1.0)


def test_the_program_of_the_example_cools_tea() -> None:
    program = Program(
        [EXAMPLE / "cooling", "cooling.in"],
        files={"cooling.in": EXAMPLE / "cooling.in"},
        read="json:cooling.json:temperatures",
        keep="none",
    )
    temperatures = program({"rate": 0.04, "room": 21.5, "start": 80.0})
    assert temperatures.shape == (15,)
    assert np.all(np.diff(temperatures) < 0)
    # Without radiation, it would be an exponential; radiation only cools.
    assert 21.5 < temperatures[-1] < 21.5 + (80 - 21.5) * np.exp(-0.04 * 15)
    with pytest.raises(ProgramError, match="no such cup"):
        program({"rate": -1.0, "room": 21.5, "start": 80.0})


@pytest.mark.skipif(shutil.which("awk") is None, reason="the program of the example needs awk")
def test_the_example_fits_the_parameters() -> None:
    script = EXAMPLE.with_suffix(".py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "after:  at most 0." in done.stdout
