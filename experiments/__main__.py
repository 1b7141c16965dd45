"""The command line: list, run, report, predict."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from tqdm import tqdm

from experiments.arguments import Parser, not_negative, positive


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is _predict and options.text is None and rest and not rest[0].startswith("-"):
        options.text, rest = " ".join(rest), []  # argparse before 3.13 gives up an optional TEXT that follows options
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    _use_every_core()
    # Only now: families and plots import half the field, and `--help` should not wait for them.
    from experiments.experiment import UserError
    from experiments.report import printable
    from jaxseq.datasets.files import DataNotFound
    from jaxseq.interrupts import lost_interrupts_sent_again
    from jaxseq.training import TrainingDiverged

    try:
        with lost_interrupts_sent_again():
            return options.command(options)
    except KeyboardInterrupt as error:
        print(f"\n{str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_code", 130)
    except (UserError, DataNotFound, TrainingDiverged, ValueError) as error:
        print(f"error: {' '.join(printable(str(error)).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {' '.join(str(error.strerror or error).split())}{where}", file=sys.stderr)
        return 1


def _use_every_core() -> None:
    """One CPU device a core, to shard batches over; settable only before JAX's first array."""
    from jaxseq import environment

    try:
        jax.config.update("jax_num_cpu_devices", environment.cores())
    except RuntimeError:
        pass  # called from a program that has used JAX already: its devices are taken as they are


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m experiments", description="Reproduces the documents' recurrent models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="name the experiments")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="train, evaluate, and write DIR/NAME/")
    run.add_argument("name", metavar="NAME", help="an experiment, a pattern such as 'jena_*', or all")
    run.add_argument(
        "--data",
        choices=("auto", "real", "synthetic"),
        default="auto",
        help="auto (the default): real where it is found or can be downloaded, else synthetic, with a notice",
    )
    run.add_argument("--seeds", type=positive, default=3, metavar="N", help="how many seeds (default: 3)")
    run.add_argument("--epochs", type=positive, metavar="N", help="in place of the documented number")
    run.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    run.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    run.add_argument("--again", action="store_true", help="run a finished or unfinished one anew")
    run.add_argument("--smoke", action="store_true", help="one short epoch on synthetic data, in seconds")
    run.set_defaults(command=_run)

    predict = commands.add_parser(
        "predict", help="use a trained model: a sentiment, a topic, a translation, a forecast"
    )
    predict.add_argument("name", metavar="NAME", help="an experiment that was run")
    predict.add_argument(
        "--from", dest="directory", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    predict.add_argument("--variant", default="", metavar="LABEL", help="a control's label; default: as documented")
    predict.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="which seed's parameters (default: 0)"
    )
    predict.add_argument("text", nargs="?", metavar="TEXT", help="a text or a file; default: standard input")
    predict.set_defaults(command=_predict)

    report = commands.add_parser("report", help="all results beside what the documents say, as Markdown or a page")
    report.add_argument("directory", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    form = report.add_mutually_exclusive_group()
    form.add_argument(
        "--html", type=Path, metavar="FILE", help="write one page, pictures and all, that needs no other file"
    )
    form.add_argument("--brief", action="store_true", help="only a short table of the documents' own models")
    form.add_argument("--claims", action="store_true", help="only what the documents claim, and whether it holds")
    report.set_defaults(command=_report)
    return parser


def _list(options: argparse.Namespace) -> int:
    from experiments.catalogue import EXPERIMENTS

    if options.json:
        fields = ("name", "document", "title", "documented")
        rows = [{field: getattr(one, field) for field in fields} for one in EXPERIMENTS.values()]
        for row, one in zip(rows, EXPERIMENTS.values(), strict=True):
            row["parameters"] = one.variants[0].parameters if one.variants else 0
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    width = max(len(name) for name in EXPERIMENTS)
    for one in EXPERIMENTS.values():
        print(f"{one.name:{width}}  {one.title}; documented: {one.documented}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from experiments import catalogue, experiment
    from experiments.report import markdown, printable
    from jaxseq.interrupts import interrupts_raised

    settings = {name: getattr(options, name) for name in experiment.Request._fields}
    request = experiment.Request(**settings)
    for one in catalogue.find(options.name):
        result = experiment.finished(one, request)
        if result is not None:
            how = f"{len(result['seeds'])} seeds, {result['epochs']} epochs, {result['data']['kind']} data"
            print(f"{one.name} is finished in {request.out / one.name} ({how}); --again runs it anew", file=sys.stderr)
        else:
            print(f"{one.name}: {one.title}", file=sys.stderr, flush=True)
            with interrupts_raised(request.out / one.name), _log_on_stderr():
                result = experiment.run(one, request)
            print(f"wrote {request.out / one.name}/result.json in {result['seconds']:.0f} s", file=sys.stderr)
        print(printable(markdown([result])), flush=True)
    return 0


class _AboveTheBar(logging.Handler):
    """Writes lines to stderr without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one."""
        tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Shows what `fit` logs: resumed from where, every epoch's figures, which seed stopped."""
    log, handler = logging.getLogger("jaxseq"), _AboveTheBar()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _predict(options: argparse.Namespace) -> int:
    from experiments import catalogue, experiment, report

    one = catalogue.find_one(options.name)
    try:
        saved = experiment.read_saved(one, options.directory, options.variant, options.seed)
        assert one.predict is not None  # read_saved raises where there is nothing to predict
        answer = one.predict(saved, _text(options.text, one.predicts))
    except (LookupError, TypeError, AttributeError) as error:  # what another experiment, or another program, wrote
        what = f"{type(error).__name__}: {error}"
        raise experiment.UserError(f"--from must hold {one.name} as `run` wrote it, got another, {what}") from error
    print(report.printable(answer))
    return 0


def _text(given: str | None, predicts: str) -> str:
    """A text as it was typed; a file's path, whose contents an experiment reads itself; or standard input."""
    if given is not None:
        return given
    if sys.stdin.isatty():
        print(f"{predicts}; end with Ctrl-D:", file=sys.stderr)
    return sys.stdin.read()


def _report(options: argparse.Namespace) -> int:
    from experiments import claims, page, report

    if options.html is not None:
        page.write(options.directory, options.html)
        print(f"wrote {options.html}", file=sys.stderr)
        return 0
    results = report.read_results(options.directory)
    if options.brief:
        print(report.printable(report.brief(results)))
        return 0
    if not options.claims:
        print(report.printable(report.markdown(results)), end="\n\n## Claims\n\n")
    print(report.printable(claims.markdown({result["name"]: result for result in results})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
