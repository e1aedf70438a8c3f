"""Where a scaling experiment is kept: a folder with a row for each measurement, for one process at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from distnum.common.errors import InputError, TrainingError
from distnum.common.text import json_text
from distnum.scaling.measurement import Measurement
from distnum.scaling.summary import efficiencies
from distnum.storage.files import make_folder, write_whole

__all__ = ["ScalingFolder"]

_FORMAT = "distnum-scaling-2"

# What is known when the workers are there.
_PLACE = ("asked_over", "node_cpus")


class ScalingFolder:
    """``scaling.json`` and ``scaling.csv``: a row for each measurement, at every moment whole.

    Args:
        path: of the folder, which is made if it is not there.
        job: what is measured, with what, and how; the rows of another job are refused.

    Raises:
        InputError: it cannot be read or made, or holds measurements of something else.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._job = json.loads(json_text(job))
        self._rows: list[dict[str, Any]] = []
        make_folder(path)
        if self.json_file.exists():
            self._rows = self._read()

    def check_place(self, place: Mapping[str, Any]) -> None:
        """Refuse to measure in other places than before.

        Raises:
            InputError: the rows are of another place.
        """
        kept = {name: self._job.get(name) for name in place}
        if self._rows:
            self._compare(kept, json.loads(json_text(place)))
        self._job |= json.loads(json_text(place))

    @property
    def json_file(self) -> Path:
        return self.path / "scaling.json"

    @property
    def csv_file(self) -> Path:
        return self.path / "scaling.csv"

    @property
    def measurements(self) -> list[Measurement]:
        """All of them, in the order in which they were made."""
        return [Measurement.from_dict(row) for row in self._rows]

    def _read(self) -> list[dict[str, Any]]:
        where = f"{self.json_file} is not what a scaling experiment wrote"
        try:
            found = json.loads(self.json_file.read_bytes())
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']!r:.40}")
            rows = found["measurements"]
            for row in rows:
                Measurement.from_dict(row)
            job = dict(found["job"])
        except OSError as error:
            raise InputError(f"{self.json_file} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{where} ({error}); choose another folder with --out.") from None
        self._compare({name: job.get(name) for name in {*job, *self._job} - set(_PLACE)}, self._job)
        self._job |= {name: job.get(name) for name in _PLACE}
        return list(rows)

    def _compare(self, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for name in sorted(kept):
            if kept[name] != now.get(name):
                raise InputError(
                    f"{self.path} holds measurements with {name} = {kept[name]!r:.60}, now it is "
                    f"{now.get(name)!r:.60}; choose another folder with --out."
                )

    def add(self, measurement: Measurement, about: Mapping[str, Any]) -> None:
        """Keep one more row.

        Raises:
            TrainingError: it cannot be written; the rows before it are intact.
        """
        self._rows.append(measurement.to_dict() | dict(about))
        self.write({})

    def write(self, findings: Mapping[str, Any]) -> None:
        """Write the rows, and what they say."""
        content = {"format": _FORMAT, "job": self._job, **findings, "measurements": self._rows}
        derived = zip(efficiencies(self.measurements), self.measurements, strict=True)
        rows = [
            row | {"efficiency": efficiency, "oversubscribed": one.oversubscribed}
            for row, (efficiency, one) in zip(self._rows, derived, strict=True)
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
                f"{error.filename or self.path} cannot be written: {error.strerror}. What was measured before is "
                "intact."
            ) from None
