"""The command ``distnum differentiate``."""

from __future__ import annotations

import argparse
import sys
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from distnum.cli.derivative_report import WIDTH, counted, report, short_time, wrapped
from distnum.cli.options import Command
from distnum.cli.output import DONE, FAILED, INTERRUPTED, out_folder, write_json, write_output
from distnum.cli.user_code import WHERE, describe_exception, is_of_the_function, started_workers
from distnum.common.errors import InputError
from distnum.common.text import print_remark, printable

if TYPE_CHECKING:
    from distnum.differentiation.derivative import Derivative
    from distnum.differentiation.estimate import Estimate
    from distnum.differentiation.options import Request
    from distnum.studies.study import Study

__all__ = ["DIFFERENTIATE", "add_derivative_options", "changes_of", "study_of"]

_MOST_NAMES = 4


def add_derivative_options(parser: argparse.ArgumentParser, order: int = 2) -> None:
    """Add the options of a derivative that are one word, or a few; each overrides that of a study.

    Args:
        parser: The parser.
        order: Order of accuracy by default, for the help.
    """
    group = parser.add_argument_group("the finite differences")
    group.add_argument("--scheme", metavar="NAME", help="forward, backward, central or complex (default: central)")
    group.add_argument("--order", metavar="N", help=f"order of accuracy: central has 2, 4, 6 and 8 (default: {order})")
    group.add_argument(
        "--h", metavar="H", help="step of all coordinates, or adaptive (default: one for each coordinate)"
    )
    group.add_argument("--rel-step", metavar="H", help="step relative to the size of a coordinate")
    group.add_argument("--x-scale", metavar="S", help="size below which a coordinate counts as small (default: 1)")
    group.add_argument(
        "--indices", metavar="NAME", nargs="+", help="names or numbers of the coordinates (default: all)"
    )
    group.add_argument("--noise", metavar="E", help="absolute noise of the function, or estimate")
    group = parser.add_argument_group("where and how it is evaluated")
    group.add_argument(
        "--workers", metavar="N", help="Ray workers: a number, auto or 2:8; 0: this process (default: 0)"
    )
    group.add_argument("--address", metavar="ADDRESS", help="a running Ray cluster: HOST:PORT, or auto for one here")
    group.add_argument("--store", metavar="DIR", help="folder or URI in which evaluations are kept and found again")
    group.add_argument(
        "--on-error", metavar="{raise,one-sided,nan}", help="what to do where an evaluation fails (default: raise)"
    )
    group.add_argument("--retries", metavar="N", help="times that a failed evaluation is tried again (default: 0)")
    group.add_argument("--workdir", metavar="DIR", help="folder of which each worker gets a copy to work in")
    group.add_argument("--timeout", metavar="S", help="seconds after which an evaluation is ended (default: never)")
    group.add_argument("--deadline", metavar="S", help="seconds after which the result is what there is by then")
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")


_TEXTS = ("scheme", "address", "store", "on_error", "workdir")
_NUMBERS = ("order", "h", "rel_step", "x_scale", "noise", "workers", "retries", "timeout", "deadline")


def changes_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a derivative that the command line gives.

    Raises:
        InputError: A text is empty.
    """
    from distnum.storage.uris import check_no_password
    from distnum.studies.values import number_or_text

    changes: dict[str, Any] = {}
    for name in (*_TEXTS, *_NUMBERS, "indices"):
        value = getattr(options, name)
        if value is None:
            continue
        if value == "":
            raise InputError(f"{name} is ''; it must not be empty.")
        if name == "indices":
            words = [number_or_text(word) for word in value]
            numbers = all(isinstance(word, int) for word in words)
            changes[name] = np.array(words) if numbers else [str(word) for word in value]
        else:
            changes[name] = value if name in _TEXTS else number_or_text(value)
    check_no_password(changes.get("store"), "store")
    return changes


def study_of(options: argparse.Namespace) -> tuple[Study, Request]:
    """Return the study of a command line with its options, and the request, checked without the function.

    Raises:
        InputError: Something cannot be used.
    """
    from distnum.studies.study import Study

    changes = changes_of(options)
    study = Study.read(options.study).with_options(changes)
    return study, study.check(changes)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study", metavar="STUDY.toml", help="file with function or [program], [x], bounds and the options below"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder or URI for derivative.json, .csv and .npz (default: derivatives/DATE-TIME)",
    )
    parser.add_argument("--estimate", action="store_true", help="only print how long it will take")
    add_derivative_options(parser)
    parser.epilog = (
        "The function is looked up in the study's folder first. Exit codes: 0 done; 1 evaluations failed, or entries "
        "have no value; 2 bad input; 130 interrupted."
    )


def _differentiate(options: argparse.Namespace) -> int:
    from distnum.common.signals import handled_signals
    from distnum.differentiation.derivative import Derivative
    from distnum.studies.files import as_json, check_folder, files_of, write_files

    study, request = study_of(options)
    with study.import_path.here():
        with redirect_stdout(sys.stderr):  # what its module prints
            study.callable()  # a function that is not found is found out before anything is made
        with out_folder(options.out, "derivatives") as out, handled_signals():
            if not options.estimate:
                check_folder(out)
            try:
                with redirect_stdout(sys.stderr):  # what the function prints
                    result = _evaluated(study, request, options)
            except (KeyboardInterrupt, SystemExit):  # Ray's own handler of SIGTERM raises the latter
                return _interrupted(study)
            except Exception as error:
                if not is_of_the_function(error):
                    raise
                print_remark(f"distnum: {describe_exception(error)}")
                return FAILED
            if not isinstance(result, Derivative):
                write_json(vars(result)) if options.json else write_output(_estimated(result))
                return DONE
            files = files_of(study, result, request.indices)
            if not options.json and not options.quiet:
                write_output(report(result, request.indices))  # first, in case that no file can be written
            write_files(out, files)
    if options.json:
        write_json(as_json(study, result, request.indices) | {"folder": out})
    elif not options.quiet:
        suffixes = [name.removeprefix("derivative") for name in sorted(files, reverse=True)]
        write_output(f"kept in   {out}: derivative{', '.join(suffixes)}")
    return FAILED if _lacks(result, request) else DONE


def _evaluated(study: Study, request: Request, options: argparse.Namespace) -> Derivative | Estimate:
    """Say what will be done, and do it; only the former if an estimate is asked for."""
    from distnum.differentiation.differentiate import differentiate
    from distnum.differentiation.estimate import estimate
    from distnum.differentiation.summary import DerivativeWarning

    def remark(text: str) -> None:
        for line in [] if options.quiet else wrapped(text, WIDTH - len("distnum: ")):
            print_remark(f"distnum: {line}")

    rest: dict[str, Any] = {name: value for name, value in study.options.items() if name not in WHERE}
    if options.quiet or options.json:
        rest["progress"] = False
    remark(_plan(study, request))
    function = study.callable()
    with started_workers(study.options, study.import_path) as backend:
        cost = estimate(function, study.x, **rest, workers=backend)
        where = "in this process" if request.workers == 0 else f"on {counted(backend.n_workers, 'worker')}"
        remark(
            f"{counted(cost.evaluations, 'evaluation')} of {short_time(cost.seconds_each)} {where}: at least "
            f"{short_time(cost.seconds)}"
        )
        if options.estimate:
            return cost
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DerivativeWarning)  # the report tells the same
            return differentiate(function, study.x, **rest, workers=backend)


def _estimated(cost: Estimate) -> str:
    memory = f"{cost.memory / 2**20:,.1f} MiB"
    return f"more than {counted(cost.workers, 'worker')} would be no faster; the result takes {memory}"


def _plan(study: Study, request: Request) -> str:
    """Text about what will be differentiated, and how."""
    chosen = request.indices
    names = [request.form.entry_name(int(index)) for index in chosen[:_MOST_NAMES]]
    more = f", ... (of {len(request.x):,} numbers)" if len(chosen) > _MOST_NAMES else ""
    text = f"{study.title} by {counted(len(chosen), 'coordinate')}: {', '.join(names)}{more}; {_scheme(request)}"
    if study.options.get("store"):
        text += f"; evaluations are kept in {study.options['store']}"
    return printable(text)


def _scheme(request: Request) -> str:
    scheme = request.scheme
    if scheme.imaginary:
        return "complex"
    one_side = "forward" if max(scheme.offsets) > 0 else "backward"
    side = "central" if min(scheme.offsets) < 0 < max(scheme.offsets) else one_side
    return f"{side}, order {scheme.order}"


def _interrupted(study: Study) -> int:
    store = study.options.get("store")
    if store:
        print_remark(f"distnum: interrupted; what is evaluated is kept in {store}. The same command goes on with it.")
    else:
        print_remark("distnum: interrupted. With --store DIR, what is evaluated would be kept.")
    return INTERRUPTED


def _lacks(derivative: Derivative, request: Request) -> bool:
    """Whether an entry that was asked for has no value."""
    from distnum.differentiation.judgment.status import Status
    from distnum.studies.entries import Listed

    status = Listed(derivative, request.indices).status
    return bool(np.isin(status, (Status.FAILED, Status.TIMEOUT, Status.MISSING)).any())


DIFFERENTIATE = Command(
    "differentiate", "differentiate a function or a program, as a study says", _add_options, _differentiate
)
