"""The files of a derivative: ``derivative.json``, ``derivative.csv`` and ``derivative.npz``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError, TrainingError
from distnum.common.machine import version_facts
from distnum.common.text import first_line, json_text, printable
from distnum.differentiation.derivative import Derivative
from distnum.differentiation.judgment.status import Status
from distnum.differentiation.sparse.entries import SparseEntries
from distnum.evaluation.programs.program import Program
from distnum.storage.files import write_whole
from distnum.storage.uris import check_no_password, is_uri
from distnum.studies.entries import STATUS_NAMES, Entry, Listed
from distnum.studies.study import Study

__all__ = ["MOST_ENTRIES", "as_json", "check_folder", "files_of", "write_files"]

MOST_ENTRIES = 1_000_000
"""Of a derivative with more entries, the ``.npz`` file alone has all of them."""


def as_json(study: Study, derivative: Derivative, indices: NDArray[np.int64]) -> dict[str, Any]:
    """Return a derivative as plain values: all that is known, but for entries in excess of ``MOST_ENTRIES``.

    Args:
        study, derivative, indices: As for ``files_of``.
    """
    listed = Listed(derivative, indices)
    counts = np.bincount(listed.status, minlength=len(Status))
    options = {name: value for name, value in study.options.items() if value is not None}
    arrays: dict[str, Any] = {}
    if derivative.entries.status.size <= MOST_ENTRIES:
        if listed.is_sparse:
            arrays = {"entries": [entry._asdict() for entry in listed.named(np.arange(len(listed)))]}
        else:
            arrays = {"derivative": derivative.jac, "error": derivative.error, "h": derivative.h}
            arrays["status"] = derivative.value_form.jacobian(STATUS_NAMES[derivative.entries.status], derivative.form)
    form, value_form = derivative.form, derivative.value_form
    return _plain(
        {
            "study": study.name,
            "program" if isinstance(study.program, Program) else "function": study.title,
            "x": study.x,
            "options": options,
            "value": derivative.value,
            **arrays,
            "slopes": [
                {"output": value_form.entry_name(output), "coordinate": form.entry_name(coordinate)}
                | {"left": left, "right": right}
                for (output, coordinate), (left, right) in sorted(derivative.entries.slopes.items())
            ],
            "counts": {status.name: int(counts[status]) for status in Status if counts[status]},
            "success": derivative.success,
            "message": derivative.message,
            "evaluations": {
                "made": derivative.n_evals,
                "from_store": derivative.n_cached,
                "retries": derivative.n_retried,
            },
            "seconds": derivative.seconds,
            "failures": [
                {"coordinate": point.name, "offset": point.offset, **vars(point.failure)}
                for point in derivative.failures
            ],
            "versions": version_facts(),
        }
    )


def files_of(study: Study, derivative: Derivative, indices: NDArray[np.int64]) -> dict[str, bytes]:
    """Return the content of the files of a derivative, by name.

    Args:
        study: What was differentiated.
        derivative: The result.
        indices: The coordinates that were asked for; the CSV file has rows for these.
    """
    files = {"derivative.npz": _npz(study, derivative, indices)}
    if derivative.entries.status.size <= MOST_ENTRIES:
        files["derivative.csv"] = _csv(derivative, indices)
    lines = [f"  {json_text(name)}: {json_text(value)}" for name, value in as_json(study, derivative, indices).items()]
    files["derivative.json"] = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    return files


def check_folder(out: str) -> None:
    """Make the folder, so that a wrong one is found before the work.

    Raises:
        InputError: It cannot be made, or is no folder.
    """
    check_no_password(out, "out")
    if is_uri(out):
        from distnum.storage.remote import open_file_system

        open_file_system(out.rstrip("/"), "out")
        return
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {out!r}, which is no folder and cannot be made: {error.strerror}.") from None


def write_files(out: str, files: Mapping[str, bytes]) -> None:
    """Write files into a folder or to a URI; each is replaced as a whole.

    Raises:
        TrainingError: One cannot be written.
    """
    if is_uri(out):
        from distnum.storage.remote import open_file_system, put_file

        system, root = open_file_system(out.rstrip("/"), "out")
    for name, content in files.items():
        try:
            if is_uri(out):
                put_file(system, f"{root}/{name}", content)
            else:
                write_whole(Path(out) / name, content)
        except Exception as error:  # each file system has its own
            reason = getattr(error, "strerror", None) or first_line(error)
            raise TrainingError(f"{out}/{name} cannot be written: {reason}.") from None


def _npz(study: Study, derivative: Derivative, indices: NDArray[np.int64]) -> bytes:
    """All entries as matrices, outputs by coordinates, or as lists with the positions ``rows`` and ``columns`` of a
    sparsity pattern; the names of both, and of the statuses.
    """
    entries, form, value_form = derivative.entries, derivative.form, derivative.value_form
    arrays: dict[str, Any] = {"x": form.flatten(study.x, "x")}
    listed = Listed(derivative, indices) if isinstance(entries, SparseEntries) else entries
    if isinstance(listed, Listed):
        arrays["rows"], arrays["columns"] = listed.places(np.arange(len(listed)))
    for name in ("derivative", "error", "h", "status"):
        arrays[name] = np.asarray(getattr(listed, name))
    content = io.BytesIO()
    np.savez(
        content,
        **arrays,
        status_names=STATUS_NAMES,
        outputs=np.array([value_form.entry_name(index) for index in range(value_form.size)]),
        coordinates=np.array([form.entry_name(index) for index in range(form.size)]),
    )
    return content.getvalue()


def _csv(derivative: Derivative, indices: NDArray[np.int64]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(Entry._fields)
    listed = Listed(derivative, indices)
    for entry in listed.named(np.arange(len(listed))):
        table.writerow([printable(one) if isinstance(one, str) else repr(one) for one in entry])
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """A value of JSON: arrays become lists, complex numbers pairs of their parts, and keys texts."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)
