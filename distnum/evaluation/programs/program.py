"""An external program as a function of named numbers."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distnum.common.checks import checked, choice, optional, real, whole
from distnum.common.errors import InputError, TrainingError
from distnum.evaluation.programs.failing import Failing, ProgramError, ended, not_started
from distnum.evaluation.programs.inputs import AnyPath, Content, Inputs
from distnum.evaluation.programs.kept import FailedFolders
from distnum.evaluation.programs.results import NoResultError, Read, file_in_folder, result_of
from distnum.evaluation.programs.running import STDERR, STDOUT, run_command
from distnum.evaluation.stores.digests import digest

__all__ = ["Program", "ProgramError"]

_tokens: dict[tuple[str, Path | None], str] = {}
"""For the names of the records of kept folders. A function may make its program anew in each call."""


class Program:
    """An external program as a function of named numbers, for ``gradient``, ``jacobian`` and so on.

    Each call makes a folder of its own, writes the input files, runs the command there, and reads the result. So calls
    on several workers, or threads, do not meet.

    In the command and in the text of input files, ``${alpha}`` stands for the number ``x["alpha"]``, ``${k[2]}`` for an
    entry of the array ``x["k"]``, and ``${k}`` for all its numbers with spaces between them. If ``x`` is one array or
    number, its name is ``x``. Numbers are written with up to 17 digits, so that a program that reads them in double
    precision gets the same bits. Each number must be used, and each input file must use one. ``$${`` stands for
    ``${`` itself; all other braces and dollars stay as they are.

    Args:
        command: Program and arguments, as a list, or as text that is split at spaces outside of quotes. A program
            named with a folder (``./model``) is looked for from the current directory, others on the ``PATH``. An
            argument that is just the name of an array becomes one argument for each number.
        files: Input files by name: the text, the ``Path`` of a file with the text, or a function of ``x`` that returns
            the text.
        read: ``"stdout"`` or ``"text:FILE"``: the numbers of the file, separated by spaces; one number is a number,
            several are an array. ``"json:FILE"`` or ``"json:FILE:PATH"``: what is in the JSON document, at a path such
            as ``result.cost[0]``. ``"regex:FILE:PATTERN"``: the number in the first group of a regular expression. A
            dict of such texts, for a dict of results. Or a function of the folder. With ``stdout`` as ``FILE`` it is
            the standard output.
        copy: Further files and folders that each folder has, unchanged.
        stdin: Name of a file in the folder for the standard input.
        timeout: Seconds after which the program is killed, with all processes that it has started.
        workdir: Folder in which the folders of the calls are made; by default that for temporary files.
        keep: ``"failed"``: the folders of failed calls are kept, with the output in ``stdout.txt`` and ``stderr.txt``;
            ``"all"`` or ``"none"``.
        max_kept: With ``keep="failed"``, how many folders are kept on each machine, at least 2: the first half of them
            and the newest. ``distnum-failed-*.json`` next to them says how many calls have failed, and how many folders
            were removed.
        env: Variables to add to the environment.
        shell: Whether ``command`` is a text for the shell.

    Raises:
        InputError: An option cannot be used.

    >>> model = Program(["awk", "{print $1^2 + $2}", "in.txt"], files={"in.txt": "${a} ${b}"})
    >>> model({"a": 3.0, "b": 0.5})
    9.5
    """

    def __init__(
        self,
        command: str | Sequence[AnyPath],
        *,
        files: Mapping[str, Content] | None = None,
        read: Read = "stdout",
        copy: AnyPath | Sequence[AnyPath] = (),
        stdin: str | None = None,
        timeout: float | None = None,
        workdir: AnyPath | None = None,
        keep: str = "failed",
        max_kept: int = 20,
        env: Mapping[str, str] | None = None,
        shell: bool = False,
    ) -> None:
        self.timeout: float | None = checked("timeout", timeout, optional(real(above=0)))
        self.keep: str = checked("keep", keep, choice("failed", "all", "none"))
        self.max_kept: int = checked("max_kept", max_kept, whole(2))
        self._inputs = Inputs(command, files or {}, copy, shell)
        self._read, self._result = read, result_of(read)
        self._outputs: tuple[str, ...] = getattr(self._result, "files", ())
        self._stdin = None if stdin is None else file_in_folder(stdin, "stdin")
        self._env = {str(name): str(value) for name, value in (env or {}).items()}
        self._workdir = None if workdir is None else Path(workdir).absolute()
        token = _tokens.setdefault((str(self._inputs), self._workdir), secrets.token_hex(4))
        self._failed = FailedFolders(self.keep, f"distnum-failed-{token}.json", self.max_kept)
        self._not_given = self._inputs.not_given
        self._check_names()

    def __repr__(self) -> str:
        files = f", files={self._inputs.written}" if self._inputs.written else ""
        return f"Program({str(self._inputs)!r}{files}, read={self._read!r})"

    def __call__(self, x: Any) -> Any:
        """Run the program for an argument, and return its result.

        Raises:
            InputError: ``x`` does not fit the input files, or the program is not found.
            ProgramError: The program has failed, or has not written its result.
        """
        command, texts = self.filled(x)
        folder = self._new_folder()
        kept = self.keep == "all"
        try:
            return self._run(command, texts, folder)
        except ProgramError as error:
            kept = error.folder == folder
            raise
        except Exception as error:
            if not isinstance(error, InputError):
                kept, sentence = self._failed.failed(folder)
                if sentence and hasattr(error, "add_note"):
                    error.add_note(sentence)
            raise
        finally:
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    def filled(self, x: Any) -> tuple[str | list[str], dict[str, str]]:
        """Return the command and the input files for an argument, with its numbers; nothing is written or run.

        Raises:
            InputError: ``x`` does not fit them.

        >>> Program("model --rate ${k[0]} ${k[1]}").filled({"k": [0.1, 1e-300]})
        (['model', '--rate', '0.1', '1e-300'], {})
        """
        return self._inputs.filled(x)

    def identity(self) -> str:
        """Return a text that is the same for programs that compute the same: command, input files, what is read.

        The executable's content is not part of it; ``executable`` describes that.

        >>> Program("model ${x}").identity() == Program("model ${x}", timeout=5).identity()
        True
        """
        parts = (*self._inputs.identity(), self._stdin, self._env, self._read)
        return f"program {self._inputs} {digest(parts).hex()}"

    def executable(self) -> str:
        """Return path, size and time of change of the executable; a text that says so if it is not found here."""
        name = self._inputs.executable
        path = shutil.which(name, path=self._env.get("PATH"))
        if path is None:
            return f"{name} (not found)"
        status = os.stat(path)
        changed = datetime.fromtimestamp(status.st_mtime, timezone.utc).isoformat(timespec="seconds")
        return f"{os.path.realpath(path)}, {status.st_size:,} bytes, changed {changed}"

    def _check_names(self) -> None:
        names = [*self._inputs.names, STDOUT, STDERR]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{twice[0]!r} is given twice; files, copy, {STDOUT!r} and {STDERR!r} must differ.")
        if self._stdin is not None and Path(self._stdin).parts[0] not in {Path(name).parts[0] for name in names}:
            raise InputError(f"stdin names {self._stdin!r}, which is neither in files nor in copy.")
        if self._workdir is not None and self._workdir.exists() and not self._workdir.is_dir():
            raise InputError(f"workdir is {str(self._workdir)!r}, which is no folder.")
        read = set(self._inputs.written) & set(self._outputs)
        if read:
            raise InputError(
                f"read names {min(read)!r}, which is an input file; it must be one that the program writes."
            )

    def _new_folder(self) -> Path:
        try:
            if self._workdir is not None:
                self._workdir.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="distnum-program-", dir=self._workdir))
        except OSError as error:
            raise TrainingError(
                f"No folder for the program can be made in {str(self._workdir or tempfile.gettempdir())!r}: "
                f"{error.strerror or error}."
            ) from None

    def _run(self, command: str | list[str], texts: Mapping[str, str], folder: Path) -> Any:
        fail = Failing(command, folder, self._not_given, self._failed)
        try:
            self._inputs.write(folder, texts)
            for name in self._outputs:
                # An old result, copied with the rest, would be read if the program wrote none.
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            place = str(error.filename2 or error.filename or folder)
            raise fail(f"cannot get its files: {place!r}: {error.strerror or error}") from None
        try:
            code = run_command(
                command,
                folder,
                stdin=None if self._stdin is None else folder / self._stdin,
                env=self._env,
                timeout=self.timeout,
                on_kill=self._failed.on_kill(folder),
            )
        except OSError as error:
            program = self._inputs.executable
            if os.path.basename(program) == program and shutil.which(program, path=self._env.get("PATH")) is None:
                given = f" of env, {self._env['PATH']!r}" if "PATH" in self._env else ""
                raise InputError(f"the program {program!r} is not found on the PATH{given}.") from None
            raise fail(f"cannot be started: {not_started(error, folder)}") from None
        if code is None:
            raise fail(f"was killed after its time limit of {self.timeout:g} s", timed_out=True)
        if code != 0:
            raise fail(ended(code), code)
        try:
            return self._result(folder)
        except NoResultError as error:
            raise fail(str(error), code) from None
