"""The command line: `list`, `show FILE`, or the name of a benchmark."""

import argparse
import importlib
import json
import math
import os
import pkgutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

import benchmarks
from benchmarks import measuring
from benchmarks.arguments import number_of_devices
from benchmarks.record import Record
from experiments.arguments import Parser, positive
from jaxseq import environment
from jaxseq.interrupts import lost_interrupts_sent_again

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    try:
        options = _parse(arguments)
        if options.command == "list":
            return _list()
        if options.command == "show":
            return _show(options)
        with lost_interrupts_sent_again():
            return _run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except measuring.WrongArgument as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (measuring.UnequalResults, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks",
        description="Measures jaxseq: one question a benchmark.",
        epilog="python -m benchmarks NAME --help says what a benchmark can be asked.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="name the benchmarks and their questions")
    show = commands.add_parser("show", help="print a result again, or draw it")
    show.add_argument("file", type=Path, metavar="FILE", help="JSON that a benchmark wrote")
    show.add_argument("--plot", type=_png, metavar="FILE.png", help="where the plot goes (default: nowhere)")
    parsers = {}
    for name, module in _benchmarks().items():
        parsers[name] = commands.add_parser(
            name,
            help=_question(module),
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common_arguments(parsers[name], name)
        module.add_arguments(parsers[name])
        parsers[name].set_defaults(benchmark=module)

    options = parser.parse_args(arguments)
    if getattr(options, "smoke", False):  # small defaults; what was given by name still holds
        parsers[options.command].set_defaults(**options.benchmark.SMOKE)
        options = parser.parse_args(arguments)
    return options


def _add_common_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"where the result goes (default: benchmarks/results/{name}.json; with --smoke nowhere)",
    )
    parser.add_argument(
        "--plot",
        type=_png,
        metavar="FILE.png",
        help=f"where the plot goes (default: benchmarks/results/{name}.png; with --smoke nowhere)",
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        default=15,
        metavar="N",
        help="rounds, in each of which every case is sampled (default: %(default)s)",
    )
    parser.add_argument(
        "--devices",
        type=number_of_devices,
        default=1,
        metavar="N",
        help="devices that share the batch; on a CPU, as many virtual ones are made; all: one a core, or all "
        "accelerators (default: %(default)s)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the cases that the JSON file has, of the same settings on the same machine, and measure the others",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all?")


def _list() -> int:
    found = _benchmarks()
    width = max(map(len, found))
    for name, module in found.items():
        print(f"{name:{width}}  {_question(module)}")
    return 0


def _show(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _check_can_be_written("plot", options.plot)
    try:
        result = json.loads(options.file.read_bytes())
        benchmark = _benchmarks()[result["benchmark"]]
        text = f"{_title(result)}\n\n{benchmark.table(result)}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = measuring.describe_error(error)
        raise measuring.WrongArgument(
            f"argument FILE: must be JSON that a benchmark wrote, got {options.file} ({why})"
        ) from None
    print(text, flush=True)
    if options.plot is not None:
        benchmark.plot(result, options.plot)
        measuring.progress(f"wrote {options.plot}")
    return 0


def _run(options: argparse.Namespace) -> int:
    outputs = {"json": options.json, "plot": options.plot}
    if not options.smoke:
        outputs["json"] = outputs["json"] or RESULTS / f"{options.command}.json"
        outputs["plot"] = outputs["plot"] or RESULTS / f"{options.command}.png"
    for name, path in outputs.items():
        if path is not None:
            _check_can_be_written(name, path)

    options.devices = _make_devices(options.devices)
    about = {
        "benchmark": options.command,
        "question": _question(options.benchmark),
        "environment": measuring.describe_machine(options.devices),
        "settings": {
            **{name: _finite(getattr(options, name)) for name in options.benchmark.SETTINGS},
            "dtype": "float32",
        },
    }
    growing = getattr(options.benchmark, "GROWING", ())
    record = Record(outputs["json"], about, resume=options.resume, growing=growing)
    try:
        result = {**about, **options.benchmark.measure(options, record)}
    except KeyboardInterrupt:
        if record.path is not None and record.measured:
            measuring.progress(f"\n{record.measured} cases are in {record.path}; --resume goes on from there")
        raise
    record.write(result)
    print(_title(result), options.benchmark.table(result), sep="\n\n", flush=True)
    if outputs["plot"] is not None:
        options.benchmark.plot(result, outputs["plot"])
    for path in filter(None, outputs.values()):
        measuring.progress(f"wrote {path}")
    for failure in result.get("failures", ()):
        measuring.progress(f"error: {failure}")
    return 1 if result.get("failures") else 0


def _benchmarks() -> dict[str, ModuleType]:
    """Every module beside this one that can be measured, by name."""
    names = sorted(found.name for found in pkgutil.iter_modules(benchmarks.__path__))
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "__main__"}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def _question(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def _finite(value: Any) -> Any:
    """None in place of infinity, which JSON does not know."""
    return None if value == math.inf else value


def _make_devices(number: int | None) -> int:
    """Sets up JAX, possible only before its first array: no compilation cache, and devices.

    Args:
      number: of devices; None: one a core, or all accelerators.
    Returns:
      How many devices to use: the number asked for, or all that there are.
    Raises:
      WrongArgument: there are not so many.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of a GPU's memory
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        jax.config.update("jax_num_cpu_devices", number or environment.cores())
    except RuntimeError:
        pass  # called from a program that has used JAX already: its devices are taken as they are
    if number is not None and number > len(jax.devices()):
        raise measuring.WrongArgument(
            f"argument --devices: must be at most the number of devices, {len(jax.devices())}, got {number}"
        )
    return number or len(jax.devices())


def _title(result: dict[str, Any]) -> str:
    about = result["environment"]
    variables = [f", {name}={about[name]}" for name in measuring.VARIABLES if name in about]
    return (
        f"{result['question']}\n\n"
        f"{about['devices']} x {about['device']} ({about['platform']}), {about['processor']}, {about['cores']} cores, "
        f"jax {about['jax']}, jaxlib {about['jaxlib']}, numpy {about['numpy']}, Python {about['python']}, "
        f"{about['date']}{''.join(variables)}"
    )


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return path


def _check_can_be_written(name: str, path: Path) -> None:
    """Raises WrongArgument now, in place of an error after hours of measuring."""
    reason = "it is a directory" if path.is_dir() else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise measuring.WrongArgument(f"argument --{name}: must be a file that can be written, got {path} ({reason})")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    if code == 130:
        os._exit(code)  # a compiler may still run in its thread, and would be waited for
    sys.exit(code)
