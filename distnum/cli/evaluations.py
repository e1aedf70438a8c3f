"""The command ``distnum evaluations``."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

from distnum.cli.options import Command
from distnum.cli.output import DONE, write_json, write_output
from distnum.common.checks import checked, whole
from distnum.common.errors import InputError, TrainingError
from distnum.common.text import duration, printable

if TYPE_CHECKING:
    from distnum.storage.evaluation_rows import Rows
    from distnum.storage.evaluations import EvaluationStore

__all__ = ["EVALUATIONS"]

_STATUSES = ("ok", "failed", "exception", "value", "timeout", "crash")
_ALLOWED = "it must be function=NAME, coordinate=NAME (as in coordinate='x[3]'; x itself is coordinate=) or status=" + (
    ", status=".join(_STATUSES)
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder or URI of the store")
    parser.add_argument("--csv", metavar="FILE", help="write the evaluations to a CSV file")
    parser.add_argument("--merge", metavar="DIR", nargs="+", default=[], help="add what these stores have")
    parser.add_argument(
        "--drop",
        metavar="WHAT",
        nargs="+",
        help="remove the evaluations to which all of this applies: function=NAME, coordinate=NAME, status=STATUS "
        f"({', '.join(_STATUSES)})",
    )
    parser.add_argument(
        "--only", metavar="WHAT", nargs="+", default=[], help="print or write only these, as for --drop"
    )
    parser.add_argument("--rows", metavar="N", default="20", help="evaluations to print, the last ones (default: 20)")
    parser.add_argument("--json", action="store_true", help="print the functions as one JSON object")


def _evaluations(options: argparse.Namespace) -> int:
    from distnum.storage.evaluation_edits import drop, merge
    from distnum.storage.evaluations import EvaluationStore

    n_rows = checked("rows", options.rows, whole(0))
    only = _Selection(options.only, "only")
    dropped = None if options.drop is None else _Selection(options.drop, "drop")
    if not options.dir:
        raise InputError("dir is ''; it must name the folder or URI of a store.")
    with ExitStack() as stack:
        store = stack.enter_context(EvaluationStore(options.dir, new=bool(options.merge)))
        for name in options.merge:
            with EvaluationStore(name, new=False) as other:
                write_output(f"{merge(store, other):,} evaluations added from {name}")
        names = {key: function.name for key, function in store.functions.items()}
        if dropped is not None:
            store.close()  # or it would be in use
            write_output(f"{drop(options.dir, lambda rows: dropped.positions(rows, names)):,} evaluations dropped")
            store = stack.enter_context(EvaluationStore(options.dir, new=False))
        if options.csv is not None:
            write_output(f"{_write_csv(options.csv, store, only, names):,} evaluations written to {options.csv}")
        elif options.json:
            write_json({"store": options.dir, "functions": _summary(store, only, names)})
        elif dropped is None and not options.merge:
            _print(store, only, names, n_rows)
    return DONE


class _Selection:
    """Which evaluations are meant: all to which every condition applies.

    Args:
        conditions: Texts such as ``"status=timeout"``.
        option: Name of the option, for messages.
    """

    def __init__(self, conditions: list[str], option: str) -> None:
        self._wanted: list[tuple[str, str]] = []
        for text in conditions:
            name, separator, value = text.partition("=")
            if not separator or name not in ("function", "coordinate", "status"):
                raise InputError(f"{option} is {text!r}; {_ALLOWED}.")
            if name == "status" and value not in _STATUSES:
                raise InputError(f"{option} is {text!r}; {_ALLOWED}.")
            self._wanted.append((name, value))

    def positions(self, rows: Rows, names: dict[str, str]) -> list[int]:
        """Return the positions of the rows that are meant."""
        kinds = _kinds(rows)
        found = list(range(len(rows)))
        for name, value in self._wanted:
            if name == "function":
                found = found if value in (names.get(rows.function), rows.function) else []
            elif name == "coordinate":
                found = [position for position in found if rows.names[position] == value]
            elif value == "failed":
                found = [position for position in found if kinds[position] != "ok"]
            else:
                found = [position for position in found if kinds[position] == value]
        return found


def _kinds(rows: Rows) -> list[str]:
    kinds = ["ok"] * len(rows)
    for position, kind, *_ in rows.failures:
        kinds[position] = kind
    return kinds


def _selected(store: EvaluationStore, only: _Selection, names: dict[str, str]) -> Iterator[tuple[Rows, int, str]]:
    """Yield the evaluations that are meant: rows, position, and kind of failure or ``"ok"``."""
    for rows in store.all_rows():
        kinds = _kinds(rows)
        for position in only.positions(rows, names):
            yield rows, position, kinds[position]


def _summary(store: EvaluationStore, only: _Selection, names: dict[str, str]) -> list[dict[str, Any]]:
    """What the store has of each function."""
    counts: dict[str, Counter[str]] = {}
    seconds: dict[str, float] = {}
    for rows, position, kind in _selected(store, only, names):
        counts.setdefault(rows.function, Counter())[kind] += 1
        seconds[rows.function] = seconds.get(rows.function, 0.0) + float(rows.seconds[position])
    return [
        {"function": names.get(key, key), "key": key, "evaluations": counted.total(), "seconds": seconds[key]}
        | {"failures": {kind: n for kind, n in sorted(counted.items()) if kind != "ok"}}
        for key, counted in counts.items()
    ]


# A function with more arguments than this is shown in one line.
_MOST_LINES = 10


def _print(store: EvaluationStore, only: _Selection, names: dict[str, str], n_rows: int) -> None:
    functions = _summary(store, only, names)
    n_all = sum(function["evaluations"] for function in functions)
    write_output(f"{n_all:,} evaluations of {len(functions)} function{'s'[: len(functions) != 1]} in {store.name}")
    for function in _lines(functions):
        failed = ", ".join(f"{n:,} {kind}" for kind, n in function["failures"].items())
        write_output(
            f"  {_short(function['function'], 40):40}  {function['evaluations']:>9,}  "
            f"{duration(function['seconds']):>9}  {failed}".rstrip()
        )
    if not n_all or not n_rows:
        return
    write_output(f"\n{'coordinate':20}  {'moved by':>12}  {'value':>22}  {'time':>8}  status")
    for rows, position, kind in islice(_selected(store, only, names), max(0, n_all - n_rows), None):
        offset, name = rows.offsets[position].item(), rows.names[position]
        value = "" if kind != "ok" or not rows.values.shape[1] else f"{rows.values[position, 0]:.12g}"
        more = f" +{rows.values.shape[1] - 1}" if value and rows.values.shape[1] > 1 else ""
        moved = "" if not name or offset != offset else f"{offset.imag:.6g}j" if offset.imag else f"{offset.real:+.6g}"
        write_output(
            f"{_short(name or '(x itself)', 20):20}  {moved:>12}  {_short(value + more, 22):>22}  "
            f"{duration(float(rows.seconds[position])):>8}  {kind}"
        )
    if n_all > n_rows:
        write_output(f"... the last {n_rows:,} of {n_all:,}; --rows N prints more, --csv FILE writes all")


def _lines(functions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions that are shown in a line of their own."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for function in functions:
        by_name.setdefault(function["function"], []).append(function)
    parts = [same if len(same) <= _MOST_LINES else [_sum(same)] for same in by_name.values()]
    return [line for part in parts for line in part]


def _sum(same: list[dict[str, Any]]) -> dict[str, Any]:
    """One line for a function with many arguments, or at many steps of a training."""
    failures: Counter[str] = sum((Counter(one["failures"]) for one in same), Counter())
    return {
        "function": f"{_short(same[0]['function'], 24)} ({len(same):,} arguments)",
        "evaluations": sum(one["evaluations"] for one in same),
        "seconds": sum(one["seconds"] for one in same),
        "failures": dict(sorted(failures.items())),
    }


def _short(text: str, length: int) -> str:
    text = printable(text)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _write_csv(path: str, store: EvaluationStore, only: _Selection, names: dict[str, str]) -> int:
    """Write one line for each evaluation, and return their number."""
    size = max((rows.values.shape[1] for rows, _, _ in _selected(store, only, names)), default=1)
    columns = ["value"] if size <= 1 else [f"value[{index}]" for index in range(size)]
    head = ("function", "coordinate", "offset", "moved_to", "status", "seconds", "host", "attempts", "time", "reason")
    n_written = 0
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([*head, *columns])
            for rows, position, kind in _selected(store, only, names):
                failure = next((row for row in rows.failures if row[0] == position), None)
                reason, attempts = ("", 1) if failure is None else (failure[2], failure[4])
                moved = ["" if number != number else number for number in _moved(rows, position)]
                when = datetime.fromtimestamp(rows.time, timezone.utc).isoformat(timespec="seconds")
                about = [kind, rows.seconds[position].item(), rows.host, attempts, when, printable(reason)]
                values = [] if failure else rows.values[position].tolist()
                table.writerow([names.get(rows.function, rows.function), rows.names[position], *moved, *about, *values])
                n_written += 1
    except OSError as error:
        raise TrainingError(f"csv is {path!r}, which cannot be written: {error.strerror or error}.") from None
    return n_written


def _moved(rows: Rows, position: int) -> tuple[Any, Any]:
    return rows.offsets[position].item(), rows.moved_to[position].item()


EVALUATIONS = Command("evaluations", "print, export, merge or drop evaluations in a store", _add_options, _evaluations)
