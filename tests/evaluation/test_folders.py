"""Working folders: evaluations on two workers do not meet, the current directory is restored, and nothing is left."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.programs.copying import copy_into, digest_of
from distnum.evaluation.programs.folders import WorkFolders
from tests.second_user import as_other_user, needs_root

_both_have_written: threading.Barrier


def _prepare(barrier: threading.Barrier) -> None:
    global _both_have_written
    _both_have_written = barrier


def square(x: float) -> float:
    """A function that talks to its program through a file in the current directory."""
    Path("in.txt").write_text(repr(x))
    _both_have_written.wait(30)
    return float(Path("in.txt").read_text()) ** 2


def square_in_folder(folders: WorkFolders, x: float) -> float:
    with folders.entered(int(x)):
        return square(x)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, at most half a minute."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def template(tmp_path: Path) -> Path:
    folder = tmp_path / "template"
    (folder / "mesh").mkdir(parents=True)
    (folder / "mesh" / "nodes").write_text("1 2")
    (folder / "model.in").write_text("x")
    (folder / "nodes").symlink_to("mesh/nodes")
    return folder


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """Where working folders are made."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_two_workers_in_one_folder_are_silently_wrong_and_right_in_their_own(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("spawn")
    monkeypatch.chdir(parent)
    barrier = context.Barrier(2)
    with ProcessPoolExecutor(2, mp_context=context, initializer=_prepare, initargs=(barrier,)) as pool:
        # Each process waits for the other one after it has written, so both read what the last one wrote.
        first, second = pool.map(square, [2.0, 3.0])
        assert (first, second) in [(4.0, 4.0), (9.0, 9.0)]
        for each in ("worker", "evaluation"):
            with WorkFolders(each=each, parent=parent) as folders:
                calls = [pool.submit(square_in_folder, folders, x) for x in (2.0, 3.0)]
                assert [call.result() for call in calls] == [4.0, 9.0]
    assert (parent / "in.txt").exists()
    assert list(parent.glob("distnum-work-*")) == []


def test_the_function_stands_in_a_copy_and_the_current_directory_is_restored(template: Path, parent: Path) -> None:
    before = os.getcwd()
    with WorkFolders(template, parent=parent) as folders:
        with folders.entered(0) as folder:
            assert Path.cwd() == folder
            assert all_files(folder) == all_files(template)
            Path("nodes").write_text("changed")
            assert Path("mesh/nodes").read_text() == "changed"
        assert os.getcwd() == before
        for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit):
            with pytest.raises(error), folders.entered(1):
                raise error
            assert os.getcwd() == before
    assert (template / "mesh" / "nodes").read_text() == "1 2"
    assert all_files(parent) == []


def test_only_this_user_can_enter_the_folders(template: Path, parent: Path) -> None:
    template.chmod(0o777)
    with WorkFolders(template, parent=parent) as folders, folders.entered(0) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_each_evaluation_has_a_new_folder(template: Path, parent: Path) -> None:
    with WorkFolders(template, each="evaluation", parent=parent) as folders:
        for number in range(3):
            with folders.entered(number) as folder:
                assert folder.name.startswith(f"evaluation-{number}-")
                assert not Path("out.txt").exists()
                Path("out.txt").write_text("1")
            assert not folder.exists()


@pytest.mark.parametrize("each", ["worker", "evaluation"])
@pytest.mark.parametrize(("keep", "kept"), [("none", []), ("failed", ["1"]), ("all", ["0", "1", "2"])])
def test_folders_are_kept_as_asked(each: str, keep: str, kept: list[str], parent: Path) -> None:
    with WorkFolders(each=each, keep=keep, parent=parent) as folders:
        for number in range(3):
            try:
                with folders.entered(number):
                    Path(str(number)).touch()
                    _ = 1 / (number - 1)
            except ZeroDivisionError as error:
                notes = getattr(error, "__notes__", [])
                assert keep == "none" or sys.version_info < (3, 11) or "is kept" in notes[0]
    names = {path.name for path in parent.rglob("*") if path.is_file()} - {"failed.json"}
    if each == "worker" and keep == "failed":
        kept = ["0", "1"]  # the folder of the failed evaluation is set aside with what the worker had written before
    assert sorted(names) == kept


def test_a_worker_has_at_most_one_folder_that_is_not_in_use(template: Path, parent: Path) -> None:
    first, second = (WorkFolders(template, parent=parent) for _ in range(2))
    for _ in range(2):
        for folders in (first, second):
            with folders.entered(0):
                pass
            assert len(list(parent.glob("*/worker-*"))) == 1
    first.close()
    second.close()
    assert all_files(parent) == []


def test_a_function_in_a_folder_can_call_others_in_folders(template: Path, parent: Path) -> None:
    with WorkFolders(parent=parent) as outer, WorkFolders(template, each="evaluation", parent=parent) as inner:
        with outer.entered(0) as around:
            for number in range(2):
                with inner.entered(number) as within:
                    assert Path.cwd() == within
                assert Path.cwd() == around
            with outer.entered(1) as again:
                assert again == around
        assert around.exists()


def test_a_folder_that_was_removed_is_made_again(template: Path, parent: Path) -> None:
    folders = WorkFolders(template, parent=parent)
    for _ in range(2):
        with folders.entered(0) as folder:
            assert Path("model.in").exists()
        shutil.rmtree(folder)
    folders.close()


def test_threads_are_refused(parent: Path) -> None:
    with WorkFolders(parent=parent) as folders, folders.entered(0), ThreadPoolExecutor(1) as thread:

        def enter() -> None:
            with folders.entered(1):
                pass

        with pytest.raises(InputError, match="threads of a process share"):
            thread.submit(enter).result()


def test_pickled_ones_are_the_same_folders_but_do_not_remove_them(template: Path, parent: Path) -> None:
    with WorkFolders(template, parent=parent) as folders:
        again = pickle.loads(pickle.dumps(folders))
        with folders.entered(0) as one, again.entered(1) as other:
            assert one == other
    assert repr(again) == repr(folders) == f"WorkFolders({str(template)!r}, each='worker', keep='none')"


def test_the_option_is_none_a_template_or_folders(template: Path) -> None:
    assert WorkFolders.of(None) is None
    folders = WorkFolders.of(template / ".." / template.name)
    assert folders is not None
    assert folders.template is not None
    assert folders.template.samefile(template)
    assert WorkFolders.of(folders) is folders
    for wrong, words in ((3, "WorkFolders"), (template / "nowhere", "no folder"), (template / "model.in", "no folder")):
        with pytest.raises(InputError, match=words):
            WorkFolders.of(wrong)
    with pytest.raises(InputError, match="each is 'thread'"):
        WorkFolders(each="thread")
    with pytest.raises(InputError, match="keep is 'some'"):
        WorkFolders(keep="some")


@pytest.mark.parametrize("to", ["/etc/passwd", "../secret", "../../secret", "absolute"])
def test_a_template_with_a_link_that_leads_out_of_it_is_refused(to: str, template: Path, tmp_path: Path) -> None:
    (template / "mesh" / "link").symlink_to(str(template / "model.in") if to == "absolute" else to)
    if to == "../secret":  # from mesh, this stays inside
        WorkFolders(template)
        (template / "link").symlink_to(to)
    with pytest.raises(InputError, match=r"link' is a link to"):
        WorkFolders(template)
    (tmp_path / "copy").mkdir()
    with pytest.raises(InputError, match=r"link' is a link to"):
        copy_into(template, tmp_path / "copy")


def test_a_link_that_leads_out_by_way_of_another_link_is_refused(template: Path) -> None:
    (template / "a" / "b").mkdir(parents=True)
    (template / "a" / "b" / "to-mesh").symlink_to("../../mesh")
    WorkFolders(template)
    (template / "a" / "b" / "link").symlink_to("to-mesh/../../secret")  # read as text, it is a/b/../secret
    with pytest.raises(InputError, match=r"link' is a link to"):
        WorkFolders(template)


def test_the_first_and_the_newest_failed_folders_are_kept_and_the_others_counted(parent: Path) -> None:
    def fail(number: int) -> None:
        Path(str(number)).touch()
        raise ZeroDivisionError

    notes = []
    with WorkFolders(keep="failed", max_kept=3, parent=parent) as folders:
        for number in range(9):
            with pytest.raises(ZeroDivisionError) as caught, folders.entered(number):
                fail(number)
            notes += getattr(caught.value, "__notes__", [""])
    (base,) = parent.iterdir()
    assert sorted(path.name for path in base.glob("*/*")) == ["0", "7", "8"]
    known = json.loads((base / "failed.json").read_text())
    assert (known["failed_calls"], known["removed_folders"]) == (9, 6)
    if sys.version_info >= (3, 11):
        assert notes[0].startswith("Its folder is kept: ")
        assert "until 2 more calls fail" in notes[8]
        assert notes[8].endswith("of 9 failed calls, 6 folders are removed (max_kept=3).")


def test_a_template_with_a_socket_is_refused(template: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(template / "socket"))
        with pytest.raises(InputError, match="neither a file nor a folder"):
            WorkFolders(template)


def test_copies_share_nothing_and_keep_permissions(template: Path, tmp_path: Path) -> None:
    os.link(template / "model.in", template / "same")
    (template / "run.sh").write_text("#!/bin/sh\n")
    (template / "run.sh").chmod(0o500)
    (template / "mesh").chmod(0o500)
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_into(template, copy)
    assert all_files(copy) == all_files(template)
    assert digest_of(copy) == digest_of(template)
    assert (copy / "run.sh").stat().st_mode & 0o777 == 0o500
    (copy / "mesh" / "new").touch()
    (copy / "model.in").write_text("changed")
    assert (template / "same").read_text() == (template / "model.in").read_text() == (copy / "same").read_text() == "x"
    assert digest_of(copy) != digest_of(template)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    template: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = os.getcwd()
    with WorkFolders(template, parent=parent) as folders:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copy2", full)
            with pytest.raises(TrainingError, match="No space left on device") as caught, folders.entered(0):
                pass
        assert "\n" not in str(caught.value)
        assert os.getcwd() == before
        assert list(parent.glob("*/*")) == []
        with folders.entered(0) as folder:
            assert all_files(folder) == all_files(template)


@needs_root
def test_a_folder_that_another_user_has_made_is_not_used() -> None:
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o1777)
        folders = WorkFolders(parent=shared)
        base = folders._base
        assert as_other_user(lambda: base.mkdir(mode=0o777)) == "None"
        with pytest.raises(TrainingError, match="another user"), folders.entered(0):
            pass


@pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")
@pytest.mark.parametrize("end", ["pass", "import time; print(flush=True); time.sleep(1000)"])
def test_the_folders_of_a_worker_are_removed_when_it_ends_or_is_killed(end: str, template: Path, parent: Path) -> None:
    code = (
        "import sys; from distnum.evaluation.programs.folders import WorkFolders\n"
        "with WorkFolders(sys.argv[1], parent=sys.argv[2]).entered(0):\n"
        "    assert open('model.in').read() == 'x'; "
    )
    worker = subprocess.Popen([sys.executable, "-c", code + end, template, parent], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    with worker.stdout:
        if end != "pass":
            worker.stdout.readline()
            assert len(list(parent.glob("*/worker-*"))) == 1
            worker.kill()
        assert worker.wait(30) == (0 if end == "pass" else -signal.SIGKILL)
    until(lambda: not os.listdir(parent))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no copies of processes")
def test_a_copy_of_a_process_has_a_folder_of_its_own(parent: Path) -> None:
    from tests.forks import in_copy

    with WorkFolders(parent=parent) as folders:
        with folders.entered(0) as own:
            pass

        def enter() -> Path:
            with folders.entered(1) as other:
                return other

        other = Path(in_copy(enter))
        assert other.parent == own.parent
        assert other != own
        until(lambda: not other.exists())  # with the end of the copy
        assert own.exists()
    assert all_files(parent) == []
