"""Values of a study: numbers, arrays and names, as TOML files and command lines give them."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from distnum.common.errors import InputError
from distnum.common.text import first_line
from distnum.storage.uris import is_uri

__all__ = ["arrays_of", "bounds_of", "near", "number_or_text", "read_arrays", "x_of_words"]


def near(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that is unknown: the one that was probably meant, or all."""
    names = list(names)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."


def number_or_text(text: str) -> Any:
    """A word of the command line as a number if it is one."""
    for kind in (int, float):
        try:
            if "_" not in text:
                return kind(text)
        except ValueError:
            pass
    return text


def arrays_of(value: Any, name: str, folder: Path) -> Any:
    """A value of a TOML file with its lists of numbers as arrays, and files of NumPy in place of their names.

    Args:
        value: A number, a list, a table, or the name of an ``.npy`` or ``.npz`` file.
        name: Its name, for messages.
        folder: Folder that the names of files are relative to.

    Raises:
        InputError: Something else is there, lists have different lengths, or a file cannot be read.
    """
    if isinstance(value, Mapping):
        return {key: arrays_of(item, f"{name}.{key}", folder) for key, item in value.items()}
    if isinstance(value, str):
        if value.endswith((".npy", ".npz")):
            return read_arrays(value if is_uri(value) else folder / value, name)
        raise InputError(f"{name} is {value!r:.60}; it must be a number, a list, a table, or an .npy or .npz file.")
    if isinstance(value, bool) or not isinstance(value, (int, float, list)):
        raise InputError(f"{name} is {value!s:.60}; it must be a number, a list, a table, or an .npy or .npz file.")
    if not isinstance(value, list):
        return value
    if any(isinstance(item, (Mapping, str)) for item in value):
        return [arrays_of(item, f"{name}[{number}]", folder) for number, item in enumerate(value)]
    try:
        array = np.array(value)
    except ValueError:
        raise InputError(f"{name} is {value!r:.60}, whose lists have different lengths; they must be equal.") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} is {value!r:.60}; a list must hold numbers.")
    return array


def read_arrays(location: str | Path, name: str) -> Any:
    """The array in an ``.npy`` file, or a dict of the arrays in an ``.npz`` file.

    Args:
        location: Path or URI of the file.
        name: Name of the value, for messages.

    Raises:
        InputError: The file is not found, cannot be read, or holds something else.
    """
    try:
        with _opened(location, name) as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name} is {str(location)!r}, which is not found.") from None
    except OSError as error:
        raise InputError(f"{name} is {str(location)!r}, which cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, KeyError) as error:
        raise InputError(f"{name} is {str(location)!r}, which is no file of arrays: {first_line(error)}.") from None
    except Exception as error:  # zipfile, NumPy and fsspec raise many more
        raise InputError(f"{name} is {str(location)!r}, which cannot be read: {first_line(error)}.") from None


def _opened(location: str | Path, name: str) -> IO[bytes]:
    if not is_uri(location):
        return open(location, "rb")
    from distnum.storage.remote import content_of, open_file_system

    system, path = open_file_system(str(location), name)
    return io.BytesIO(content_of(system, path))


def bounds_of(bounds: Any, x: Any, name: str, folder: Path) -> tuple[Any, Any]:
    """Lower and upper bounds in the form of ``x``, from pairs by name; there are none where no pair is given.

    Args:
        bounds: A pair (lower, upper), each a number or in the form of that part of ``x``; or a table of pairs by name.
        x: The point, or a part of it.
        name: Name of the bounds, for messages.
        folder: Folder that the names of files are relative to.

    Raises:
        InputError: A name is not in ``x``, or there is no pair.
    """
    if isinstance(bounds, Mapping) and isinstance(x, Mapping):
        for key in bounds:
            if key not in x:
                raise InputError(f"{name} names {key!r}, which x does not have; {near(key, map(str, x))}")
        sides = {
            key: bounds_of(bounds[key], item, f"{name}.{key}", folder) if key in bounds else (-np.inf, np.inf)
            for key, item in x.items()
        }
        return {key: side[0] for key, side in sides.items()}, {key: side[1] for key, side in sides.items()}
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise InputError(
            f"{name} is {bounds!r:.60}; it must be a pair [lower, upper] of numbers, or of lists in the form of x; inf "
            "and -inf where there is no bound."
        )
    lower, upper = (arrays_of(side, name, folder) for side in bounds)
    return lower, upper


def x_of_words(words: list[str]) -> Any:
    """The point that a command line gives: a file of arrays, numbers as ``1,2.5``, or ``name=numbers`` for each name.

    Raises:
        InputError: It is something else.

    >>> x_of_words(["rate=0.5", "k=1,2"])
    {'rate': 0.5, 'k': array([1., 2.])}
    """
    if len(words) == 1 and words[0].endswith((".npy", ".npz")):
        return read_arrays(words[0], "x")
    named = [word.partition("=") for word in words]
    if all(equals for _, equals, _ in named):
        names = [name for name, _, _ in named]
        if len(set(names)) == len(names):
            return {name: _numbers(text, f"x of {name}") for name, _, text in named}
    elif len(words) == 1:
        return _numbers(words[0], "x")
    raise InputError(
        f"x is {' '.join(words)!r:.60}; it must be an .npy or .npz file, numbers as in 1,2.5, or "
        "NAME=NUMBERS for each name."
    )


def _numbers(text: str, name: str) -> Any:
    numbers = [number_or_text(word) for word in text.split(",")]
    if any(isinstance(number, str) for number in numbers):
        raise InputError(f"{name} is {text!r:.60}; it must be numbers separated by commas, or an .npy or .npz file.")
    return np.array(numbers, np.float64) if len(numbers) > 1 else float(numbers[0])
