"""The command line: reads options, calls the library, prints what came of it.

Results go to the standard output, progress and remarks to the error stream. Exit codes:
0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import fields
from functools import partial
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from distnum import __version__
from distnum.config import KEEPING, Config, read_toml
from distnum.errors import InputError, TrainingError
from distnum.kinds import as_int, checked, real, whole
from distnum.progress import duration, tell

if TYPE_CHECKING:
    from distnum.runs import RunFolder
    from distnum.training import TrainResult

__all__ = ["main", "run"]

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run() -> NoReturn:
    """The command itself: ends the process with ``main``'s code."""
    _prepare_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what matters to the user is said in a line of our own
    logging.getLogger().addHandler(logging.NullHandler())  # the same for what libraries log
    code = main()
    if code == INTERRUPTED:
        # At once: what an interrupted library would still do at the end of the process can crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    remarks = logging.StreamHandler(sys.stderr)
    remarks.setLevel(logging.WARNING)
    remarks.setFormatter(logging.Formatter("distnum: %(levelname)s: %(message)s"))
    log = logging.getLogger("distnum")
    log.addHandler(remarks)
    try:
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        return code
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except TrainingError as error:
        return _complain(str(error), FAILED)
    except MemoryError as error:
        return _complain(f"this machine has not enough memory: {error}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except _ReaderGone:
        return FAILED  # there is nobody to tell
    except Exception as error:
        if os.environ.get("DISTNUM_DEBUG"):
            raise
        return _complain(
            f"unexpected {type(error).__name__}: {error} (set DISTNUM_DEBUG=1 to see where; please report it)", FAILED
        )
    finally:
        log.removeHandler(remarks)


def _complain(message: str, code: int) -> int:
    print(f"distnum: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


# --- streams ------------------------------------------------------------------------------


class _ReaderGone(Exception):
    """Whoever read our output has closed it."""


class _Remarks:
    """The error stream, for which no work is given up: its disk may be full, its reader gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        # RuntimeError: a signal came while the stream was being written to.
        with suppress(OSError, RuntimeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, RuntimeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _prepare_streams() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Closed: the next file opened would get its number, and what is meant for the stream.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (stays open to the end)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = cast("TextIO", _Remarks(sys.stderr))


def _print(text: str) -> None:
    """Print a result.

    Raises:
        TrainingError: the output cannot be written.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would try once more at the end, and complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise _ReaderGone from None
        raise TrainingError(f"the standard output cannot be written: {error.strerror}.") from None


# --- options ------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="distnum",
        description="Train networks by numerical gradients, distributed over Ray. No backpropagation.",
        epilog="distnum COMMAND --help explains a command. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distnum {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    train = _command(commands, "train", _train, "train a network, by default on the digits in the package")
    train.add_argument("--out", metavar="DIR", help="folder to keep the run in (default: runs/DATE-TIME)")
    train.add_argument("--config", metavar="FILE", help="TOML file with fields to begin with; options override them")
    _add_config_options(train, [item.name for item in fields(Config)])
    _add_output_options(train)

    resume = _command(commands, "resume", _resume, "continue a run that was interrupted, to the same bits")
    resume.add_argument("dir", metavar="DIR", help="folder of the run")
    where = ["workers", "threads_per_worker", "address", "step_deadline", "wait_for_workers"]
    _add_config_options(resume, [*where, "on_nonfinite", "on_write_error"])
    resume.add_argument("--steps", metavar="N", dest="steps", help="train to this step instead of the planned one")
    _add_output_options(resume)

    evaluate = _command(commands, "evaluate", _evaluate, "measure a trained network on test examples")
    evaluate.add_argument("dir", metavar="DIR", help="folder of the run")
    evaluate.add_argument("--data", metavar="DATA", help="other data than it was trained on")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    predict = _command(commands, "predict", _predict, "label images with a trained network")
    predict.add_argument("dir", metavar="DIR", help="folder of the run")
    predict.add_argument("file", metavar="FILE", nargs="+", help="a picture (PNG, ...) or a .npy array of examples")
    predict.add_argument("--invert", action="store_true", help="the picture is dark on light")
    predict.add_argument("--json", action="store_true", help="print one JSON object")

    scale = _command(commands, "scale", _scale, "measure how the steps of a training scale with workers, and foretell")
    _add_scale_options(scale)
    names = [
        item.name for item in fields(Config) if item.name not in _NOT_FOR_SCALE and item.metadata["group"] != KEEPING
    ]
    _add_config_options(scale, names)

    plot = _command(commands, "plot", _plot, "draw the loss curve and the learned weights of a run")
    plot.add_argument("dir", metavar="DIR", help="folder of the run")
    plot.add_argument("--out", metavar="DIR", help="folder for the pictures (default: the run's)")
    return parser


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _add_config_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    groups: dict[str, Any] = {}
    for item in fields(Config):
        if item.name not in names:
            continue
        title = item.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        kind = item.metadata["kind"]
        choices = kind.allowed.removeprefix("one of ").split(", ") if kind.allowed.startswith("one of ") else None
        metavar = item.metadata["metavar"] or ("{" + ",".join(choices) + "}" if choices else None)
        default = ",".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
        shown = "" if default is None else f" (default: {default})"
        help = (item.metadata["help"] + shown).replace("%", "%%")
        group.add_argument(
            f"--{item.name.replace('_', '-')}", dest=item.name, metavar=metavar, default=argparse.SUPPRESS, help=help
        )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")


_NOT_FOR_SCALE = ("workers", "threads_per_worker", "steps", "on_nonfinite")


def _add_scale_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument("--workers", metavar="N,N", help="numbers of workers (default: 1,2,4,... up to the cores)")
    group.add_argument("--threads", metavar="N,N", default="1", help="threads of each worker (default: 1)")
    group.add_argument(
        "--mode", metavar="{strong,weak}", default="strong", help="the same steps for all, or a batch that grows"
    )
    group.add_argument("--steps", metavar="N", default="20", help="steps of a measurement (default: 20)")
    group.add_argument("--warmup", metavar="N", default="3", help="steps before them (default: 3)")
    group.add_argument(
        "--repeats", metavar="N", default="5", help="measurements of each setting, in turns (default: 5)"
    )
    group = parser.add_argument_group("what is foretold")
    group.add_argument("--forecast", metavar="N,N", help="numbers of workers to foretell")
    group.add_argument("--gbit-per-s", metavar="X", default="10", help="assumed between unmeasured nodes (default: 10)")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", metavar="DIR", help="folder for scaling.csv, .json, .png, .svg (default: scaling/DATE-TIME)"
    )
    group.add_argument("--resume", action="store_true", help="measure only what is missing in --out")
    group.add_argument("--config", metavar="FILE", help="TOML file with fields to begin with; options override them")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _config_changes(options: argparse.Namespace) -> dict[str, Any]:
    names = {item.name for item in fields(Config)}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}


# --- train and resume -----------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    config = _config(options).with_changes(_config_changes(options))
    with _out_folder(options.out, "runs") as out:
        return _run_training(options, config=config, out=out)


def _config(options: argparse.Namespace) -> Config:
    """The configuration in the file that the options name, or the defaults."""
    from distnum.runs import config_of

    return Config() if options.config is None else config_of(read_toml(Path(options.config)), options.config)


def _resume(options: argparse.Namespace) -> int:
    from distnum.runs import RunFolder

    run = RunFolder.look(Path(options.dir))
    changes = _config_changes(options)
    Config().with_changes(changes)  # refuses bad values, also where there is nothing to do
    result = run.result()
    if result is None or "steps" in changes or not _has_whole_model(run):
        return _run_training(options, out=run.path, resume=True, **changes)
    if not options.quiet:
        tell(f"distnum: run {options.dir} is complete; there is nothing to resume. Train it further with --steps N.")
    if options.json:
        _print_json(result | {"folder": str(run.path)})
    return DONE


def _has_whole_model(run: RunFolder) -> bool:
    from distnum.models import load_model

    if run.config_values().get("objective") == "python":
        return True
    try:
        load_model(run)
    except InputError as error:
        logging.getLogger("distnum").warning("%s It is written anew.", error)
        return False
    return True


@contextmanager
def _out_folder(name: str | None, parent: str) -> Iterator[Path]:
    """The folder of that name; without one a new folder below ``parent``, named after the time.

    A new one is gone again if nothing was put into it.
    """
    if name == "":
        raise InputError("out is ''; it must name a folder.")
    if name is not None:
        yield Path(name)
        return
    from datetime import datetime

    folder, time = Path(parent), datetime.now().strftime("%Y-%m-%d-%H%M%S")
    made_parent = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        for number in count(1):
            path = folder / (time if number == 1 else f"{time}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise InputError(f"out is {str(folder / time)!r}, where nothing can be kept: {error.strerror}.") from None
    try:
        yield path
    finally:
        with suppress(OSError):  # it is in use
            path.rmdir()
            if made_parent:
                folder.rmdir()


def _run_training(options: argparse.Namespace, out: Path, **arguments: Any) -> int:
    from distnum.training import train
    from distnum.watch import Watch

    watch = Watch(out, quiet=options.quiet)
    # Ray reports a worker's death on the standard output, which is for results.
    with watch.attention(), redirect_stdout(sys.stderr):
        try:
            result = train(
                out=out, on_prepared=watch.prepared, on_start=watch.started, on_step=watch.stepped, **arguments
            )
        except (KeyboardInterrupt, SystemExit):  # Ray's own handler of SIGTERM raises the latter
            watch.close()
            return _interrupted(out)
        finally:
            watch.close()
    if not result.completed:
        return _interrupted(out)
    if options.json:
        _print_json(result.to_dict() | {"folder": str(out)})
    elif not options.quiet:
        _print_result(result)
    return DONE


def _print_json(value: Any) -> None:
    from distnum.runs import json_text

    _print(json_text(value))


def _interrupted(out: Path) -> int:
    if (out / "config.toml").exists():
        tell(f"distnum: interrupted; the run is saved. Continue with: distnum resume {shlex.quote(str(out))}")
    else:
        tell("distnum: interrupted before the run began.")
    return INTERRUPTED


def _print_result(result: TrainResult) -> None:
    last = result.metrics[-1]
    parts = [f"loss {result.loss:.4f}"]
    if result.test is not None:
        parts.append(f"test loss {result.test.loss:.4f}")
        if result.test_accuracy is not None:
            parts.append(f"test accuracy {result.test_accuracy:.4f}")
    _print(
        f"trained   {last['step']:,} steps in {duration(result.seconds['steps'])}, this command "
        f"{duration(result.seconds['total'])}: {', '.join(parts)}\n"
        f"params    sha256 {result.params_sha256}\n"
        f"kept in   {result.folder}"
    )


# --- scale ------------------------------------------------------------------------------------


def _scale(options: argparse.Namespace) -> int:
    from distnum.experiments import scale
    from distnum.reports import scaling_report

    changes = {name: value for name, value in _config_changes(options).items() if name not in _NOT_FOR_SCALE}
    config = _config(options).with_changes(changes)
    if options.resume and options.out is None:
        raise InputError("resume needs --out DIR, the folder of the measurements.")
    say = (lambda text: None) if options.quiet else tell
    numbers = partial(_numbers, options)
    with _out_folder(options.out, "scaling") as out, redirect_stdout(sys.stderr):
        result = scale(
            workers=numbers("workers"),
            threads=numbers("threads") or (),
            mode=options.mode,
            steps=checked("steps", options.steps, whole(1)),
            warmup=checked("warmup", options.warmup, whole(0)),
            repeats=checked("repeats", options.repeats, whole(1)),
            forecast=numbers("forecast") or (),
            gbit_per_s=checked("gbit_per_s", options.gbit_per_s, real(above=0)),
            out=out,
            resume=options.resume,
            config=config,
            on_start=lambda n_nodes, n: say(f"distnum: {n} measurements on {n_nodes} node{'s'[: n_nodes > 1]} ..."),
            on_measured=lambda one, n_left: say(
                f"repeat {one.repeat}: {one.setting} worker{'s'[: one.workers > 1]}, {duration(one.step_s)} a step"
                f" ({n_left} to go)"
            ),
        )
        pictures = [out / "scaling.png", out / "scaling.svg"]
        try:
            for picture in pictures:
                result.plot(picture)
        except InputError as error:
            tell(f"distnum: no picture was drawn: {error}")
            pictures = []
    if options.json:
        _print_json(result.to_dict() | {"folder": str(out)})
    elif not options.quiet:
        kept = ", ".join(str(path) for path in [out / "scaling.csv", out / "scaling.json", *pictures])
        _print(f"{scaling_report(result)}\n\nkept in   {kept}")
    return DONE


def _numbers(options: argparse.Namespace, name: str) -> list[int] | None:
    """Whole numbers separated by commas; None where the option is not given."""
    text = getattr(options, name)
    if text is None:
        return None
    try:
        return [as_int(number) for number in text.split(",")] if text else []
    except ValueError:
        raise InputError(
            f"{name} is {text!r:.60}; it must be whole numbers separated by commas, as in 1,2,4."
        ) from None


# --- evaluate, predict, plot ------------------------------------------------------------------


def _evaluate(options: argparse.Namespace) -> int:
    from distnum.data import load_data
    from distnum.models import load_model
    from distnum.reports import evaluation_table
    from distnum.runs import RunFolder

    model = load_model(RunFolder.look(Path(options.dir)))
    dataset = load_data(options.data if options.data is not None else model.data)
    evaluation = model.evaluate(dataset)
    if options.json:
        _print_json({"data": dataset.name} | evaluation.to_dict())
    else:
        _print(f"{evaluation.n_examples:,} test examples of {dataset.name}\n{evaluation_table(evaluation)}")
    return DONE


def _predict(options: argparse.Namespace) -> int:
    from distnum.models import load_model, read_images
    from distnum.runs import RunFolder

    model = load_model(RunFolder.look(Path(options.dir)))
    if model.network.loss_function.name != "cross_entropy":
        raise InputError(f"run {options.dir!r} was not trained to label; predict needs loss cross_entropy.")
    predictions = []
    for name in options.file:
        x, remarks = read_images(Path(name), model, invert=options.invert)
        for remark in remarks:
            tell(f"distnum: {name}: {remark}")
        for number, row in enumerate(model.probabilities(x)):
            label = int(row.argmax())
            predictions.append(
                {"file": name, "example": number, "label": label, "probability": round(float(row[label]), 6)}
            )
    if options.json:
        _print_json(predictions)
        return DONE
    n_of_file = Counter(one["file"] for one in predictions)
    for one in predictions:
        where = f"{one['file']}[{one['example']}]" if n_of_file[one["file"]] > 1 else one["file"]
        _print(f"{where}  {one['label']}  (probability {one['probability']:.3f})")
    return DONE


def _plot(options: argparse.Namespace) -> int:
    from distnum.models import load_model
    from distnum.plots import plot_curves, plot_weights
    from distnum.runs import RunFolder, config_of

    run = RunFolder.look(Path(options.dir))
    out = Path(options.out) if options.out is not None else run.path
    if options.out == "" or not out.is_dir():
        raise InputError(f"out is {options.out!r}, which is not a folder; it must be one that exists.")
    rows = run.rows()
    of_network = run.config_values().get("objective") != "python"
    model = load_model(run) if run.model_file.exists() and of_network else None
    plot_curves(rows, out / "loss.png")
    _print(str(out / "loss.png"))
    if model is not None and len(model.example_shape) == 2:
        config = config_of(run.config_values(), str(run.config_file))
        initial = model.network.initial_params(config.seed, config.init, config.init_std, config.dtype)
        plot_weights(model, initial, out / "weights.png")
        _print(str(out / "weights.png"))
    return DONE
