"""Facts on this machine."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from distnum.common import machine
from distnum.common.machine import single_threaded_blas
from tests.forks import in_copy


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(machine.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("distnum does not run from a checkout")
    command = ["git", "-C", str(root), "describe", "--always"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert machine.git_commit().removesuffix("-dirty") == commit


def test_without_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site-packages" / "distnum" / "common" / "machine.py"))
    assert machine.git_commit() == ""


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Let BLAS use three threads, whatever the machine has."""
    with threadpool_limits(3, user_api="blas"):
        if blas_threads() != {3}:
            pytest.skip("the number of threads of this BLAS cannot be set")
        yield


@pytest.mark.usefixtures("three_threads")
def test_blas_has_its_threads_back_after_blocks_that_overlap() -> None:
    first, second = single_threaded_blas(), single_threaded_blas()
    first.__enter__()
    second.__enter__()
    assert blas_threads() == {1}
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {3}


@pytest.mark.usefixtures("three_threads")
def test_blas_has_its_threads_back_after_blocks_in_several_threads() -> None:
    both_inside = threading.Barrier(2)
    first_has_left = threading.Event()

    def use(number: int) -> set[int]:
        with single_threaded_blas():
            both_inside.wait(30)
            if number == 1:
                assert first_has_left.wait(30)
            inside = blas_threads()
        if number == 0:
            first_has_left.set()
        return inside

    with ThreadPoolExecutor(2) as executor:
        assert list(executor.map(use, range(2))) == [{1}, {1}]
    assert blas_threads() == {3}


@pytest.mark.usefixtures("three_threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_copy_of_the_process_can_use_blas_with_one_thread() -> None:
    def use() -> set[int]:
        with single_threaded_blas():
            return blas_threads()

    with single_threaded_blas():
        assert in_copy(use) == "{1}"
    assert in_copy(use) == "{1}"


@pytest.mark.usefixtures("three_threads")
def test_blas_has_one_thread_although_another_thread_has_set_a_number() -> None:
    # threadpoolctl lets only the first thread that sets a number set others, and ignores the rest.
    def use() -> set[int]:
        with single_threaded_blas():
            return blas_threads()

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(use).result() == {1}
    assert blas_threads() == {3}
