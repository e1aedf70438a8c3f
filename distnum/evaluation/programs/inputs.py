"""The inputs of a program: its command and its files, with places for numbers."""

from __future__ import annotations

import os
import reprlib
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError
from distnum.evaluation.programs.copying import check_copyable, copy_into, digest_of
from distnum.evaluation.programs.results import file_in_folder
from distnum.evaluation.programs.templates import NamedNumbers, Template

__all__ = ["AnyPath", "Content", "Inputs"]

AnyPath = str | os.PathLike[str]
Content = str | Path | Callable[[Any], str]


class Inputs:
    """What a program gets in each evaluation; the options are those of ``Program``.

    Raises:
        InputError: An option cannot be used.
    """

    def __init__(
        self,
        command: str | Sequence[AnyPath],
        files: Mapping[str, Content],
        copy: AnyPath | Sequence[AnyPath],
        shell: bool,
    ) -> None:
        self.shell = shell
        self._copies = _existing([copy] if isinstance(copy, (str, os.PathLike)) else copy)
        self._files: dict[str, Template] = {}
        self._written: dict[str, Callable[[Any], str]] = {}
        for name, content in files.items():
            name = file_in_folder(name, "files")
            if callable(content):
                self._written[name] = content
            else:
                self._files[name] = _template(name, content)
        words = _words(command, shell)
        self._given = [Template.of("command", word) for word in words]
        self._command = self._given if shell else [Template.of("command", self._found(words[0])), *self._given[1:]]
        self._checked: set[Any] = set()
        if not self._written and not any(template.names for template in self._templates):
            raise InputError(
                f"the program {str(self)!r} uses no parameter: write ${{name}} into its command, or give it input "
                "files with it."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": set()}

    def __str__(self) -> str:
        """The command as it was given."""
        words = [template.text for template in self._given]
        if self.shell:
            return words[0]
        return " ".join(shlex.quote(word) if set(word) & set(" '\"") else word for word in words)

    @property
    def executable(self) -> str:
        """The program, which may have to be looked for on the ``PATH``."""
        return "/bin/sh" if self.shell else self._command[0].text

    @property
    def not_given(self) -> list[str]:
        """Arguments that name files of the current directory, which are not in the folder of the program."""
        words = [] if self.shell else [template.text for template in self._given[1:]]
        others = {Path(name).parts[0] for name in self.names}
        return [
            word
            for word in words
            if (path := Path(word)).parts and path.parts[0] not in others | {path.anchor} and path.is_file()
        ]

    @property
    def names(self) -> list[str]:
        """Names of the files and folders in the folder before the program runs."""
        return [*self._files, *self._written, *(path.name for path in self._copies)]

    @property
    def written(self) -> list[str]:
        """Names of the files with numbers."""
        return [*self._files, *self._written]

    def filled(self, x: Any) -> tuple[str | list[str], dict[str, str]]:
        """Return the command and the files for an argument.

        Raises:
            InputError: The argument does not fit them.
        """
        numbers = NamedNumbers(x)
        if not self._written and numbers.shapes not in self._checked:
            numbers.check_all_used(self._templates)
            self._checked.add(numbers.shapes)
        texts = {name: template.fill(numbers) for name, template in self._files.items()}
        texts |= {name: _text_of(name, write(x)) for name, write in self._written.items()}
        if self.shell:
            return self._command[0].fill(numbers), texts
        return [argument for template in self._command for argument in template.arguments(numbers)], texts

    def write(self, folder: Path, texts: Mapping[str, str]) -> None:
        """Write the files into a folder, and copy the others.

        Raises:
            OSError: That is not possible.
        """
        for path in self._copies:
            if path.is_dir():
                (folder / path.name).mkdir(mode=0o700)
                copy_into(path, folder / path.name)
            else:
                shutil.copy2(path, folder / path.name)
        for name, text in texts.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode("utf-8", "surrogateescape"))
            if text.startswith("#!"):
                file.chmod(0o700)

    def identity(self) -> tuple[Any, ...]:
        """Return what distinguishes these inputs from others."""
        texts = {name: template.text.encode("utf-8", "surrogateescape") for name, template in self._files.items()}
        copies = {path.name: digest_of(path) for path in self._copies}
        return self.shell, [template.text for template in self._given], texts, self._written, copies

    @property
    def _templates(self) -> list[Template]:
        return [*self._command, *self._files.values()]

    def _found(self, program: str) -> str:
        """The path of a program that is named with a folder; one that is among the files is looked for there."""
        path = Path(program)
        among_files = any(path.parts[0] == Path(name).parts[0] for name in self.names) if path.parts else False
        if os.path.basename(program) == program or path.is_absolute() or among_files:
            return program
        if not path.exists():
            words = [template.text for template in self._given]
            quotes = any(Path(" ".join(words[:n])).exists() for n in range(2, len(words) + 1))
            raise InputError(
                f"the program {program!r} is not found from the current directory {os.getcwd()!r}; "
                + ("a path with spaces needs quotes." if quotes else "give its full path, or give it in copy.")
            )
        return str(path.absolute())


def _words(command: Any, shell: bool) -> list[str]:
    try:
        if shell != isinstance(command, str) and shell:
            raise ValueError("with shell=True it must be a text")
        if shell:
            words = [command]
        else:
            words = shlex.split(command) if isinstance(command, str) else [_word(word) for word in command]
        if not words or not words[0].strip():
            raise ValueError("it is empty")
    except (ValueError, TypeError) as error:
        raise InputError(f"command is {command!r:.60}; it must be a program with its arguments: {error}.") from None
    return words


def _word(word: Any) -> str:
    if not isinstance(word, (str, os.PathLike)):
        raise TypeError(f"{word!r} in it is no text")
    return str(os.fspath(word))


def _text_of(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"the function for {name!r} in files has returned {reprlib.repr(text)}; it must return text.")
    return text


def _template(name: str, content: Any) -> Template:
    title, text = name, content
    if isinstance(content, os.PathLike):
        title = os.fspath(content)
        try:
            text = Path(content).read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise InputError(f"files names {title!r} for {name!r}, which cannot be read: {error.strerror}.") from None
    if not isinstance(text, str):
        raise InputError(f"files has {content!r:.60} for {name!r}; it must be a text, a Path, or a function of x.")
    template = Template.of(title, text)
    if not template.names:
        raise InputError(
            f"{title} uses no parameter: write ${{name}} where a number belongs. Files that are always the same are "
            "given in copy."
        )
    return template


def _existing(paths: Sequence[AnyPath]) -> list[Path]:
    found = [Path(path).absolute() for path in paths]
    for path in found:
        if path.is_dir():
            check_copyable(path)
        elif not path.is_file():
            raise InputError(f"copy names {str(path)!r}, which is no file or folder.")
    return found
