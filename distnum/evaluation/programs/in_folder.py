"""A function that is called in a working folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import count
from typing import Any

from distnum.evaluation.programs.folders import WorkFolders

__all__ = ["InFolder"]

_numbers = count()


class InFolder:
    """A function that is called in a folder of ``WorkFolders``; it can be sent to other processes as the function can.

    Args:
        function: The function.
        folders: The folders.
    """

    def __init__(self, function: Callable[..., Any], folders: WorkFolders) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function
        self._folders = folders

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._folders.entered(next(_numbers)):
            return self.__wrapped__(*args, **kwargs)
