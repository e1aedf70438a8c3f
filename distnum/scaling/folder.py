"""Folder of a scaling experiment: one row for each measurement, written by one process at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError, TrainingError
from distnum.common.text import json_text
from distnum.scaling.measurement import Measurement
from distnum.scaling.summary import efficiencies
from distnum.storage.files import lock, remove_parts, write_whole
from distnum.storage.plain_files import read_plain

__all__ = ["ScalingFolder", "locked_folder"]

_FORMAT = "distnum-scaling-2"

# Facts of the job that are known only once the workers have started.
_CLUSTER_FACTS = ("asked_over", "node_cpus")


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Lock a folder for this process, and create it if it does not exist.

    Raises:
        InputError: Another process measures in it, or it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {str(path)!r}, where no experiment can be kept: {error.strerror}.") from None
    try:
        # The folder itself is locked, so that no lock file remains in it.
        descriptor = lock(path)
    except BlockingIOError:
        raise InputError(
            f"out is {str(path)!r}, which is in use: another distnum process is measuring in it."
        ) from None
    try:
        remove_parts(path)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


class ScalingFolder:
    """The files ``scaling.json`` and ``scaling.csv`` of an experiment; each is replaced as a whole.

    Args:
        path: The folder, which exists.
        job: Facts of the job and of how it is measured. Rows of another job are refused.

    Raises:
        InputError: The folder cannot be read, or holds measurements of another job.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self.json_file = path / "scaling.json"
        self.csv_file = path / "scaling.csv"
        self._job = json.loads(json_text(job))
        self._rows = self._read() if os.path.lexists(self.json_file) else []

    def check_cluster(self, facts: Mapping[str, Any]) -> None:
        """Compare facts of the cluster with those of the measurements so far.

        Raises:
            InputError: The facts differ.
        """
        kept = {name: self._job.get(name) for name in facts}
        now = json.loads(json_text(facts))
        if self._rows:
            self._compare(kept, now)
        self._job |= now

    @property
    def measurements(self) -> list[Measurement]:
        """All measurements, in the order in which they were made."""
        return [Measurement.from_dict(row) for row in self._rows]

    def _read(self) -> list[dict[str, Any]]:
        try:
            content = json.loads(read_plain(self.json_file))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r:.40}")
            rows = content["measurements"]
            for row in rows:
                Measurement.from_dict(row)
            job = dict(content["job"])
        except OSError as error:
            raise InputError(f"{self.json_file} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{self.json_file} was not written by a scaling experiment ({error}); choose another folder with --out."
            ) from None
        self._compare({name: job.get(name) for name in {*job, *self._job} - set(_CLUSTER_FACTS)}, self._job)
        self._job |= {name: job.get(name) for name in _CLUSTER_FACTS}
        return list(rows)

    def _compare(self, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for name in sorted(kept):
            if kept[name] != now.get(name):
                raise InputError(
                    f"{self.path} holds measurements with {name} = {kept[name]!r:.60}, now it is "
                    f"{now.get(name)!r:.60}; choose another folder with --out."
                )

    def add(self, measurement: Measurement, about: Mapping[str, Any]) -> None:
        """Append a row and write the files.

        Raises:
            TrainingError: The files cannot be written; the rows before it are intact.
        """
        self._rows.append(measurement.to_dict() | dict(about))
        self.write({})

    def write(self, result: Mapping[str, Any]) -> None:
        """Write the rows, and the result computed from them.

        Raises:
            TrainingError: The files cannot be written; their previous contents are intact.
        """
        content = {"format": _FORMAT, "job": self._job, **result, "measurements": self._rows}
        measurements = self.measurements
        rows = [
            row | {"efficiency": efficiency, "oversubscribed": one.oversubscribed}
            for row, efficiency, one in zip(self._rows, efficiencies(measurements), measurements, strict=True)
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = StringIO()
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        try:
            write_whole(self.json_file, (json_text(content, indent=2) + "\n").encode())
            write_whole(self.csv_file, table.getvalue().encode())
        except OSError as error:
            raise TrainingError(
                f"{error.filename or self.path} cannot be written: {error.strerror}. Earlier measurements are intact."
            ) from None
