"""Breaks one line at a time and counts how many of the broken programs the tests notice: `python -m tests.mutants`.

A mutant is one small change of one expression or statement, drawn at random from the modules that matter; its module's
tests run on a copy of the tree until one fails. A mutant that they let pass is printed with its line, to be read by a
person: some change nothing that can be seen. Not part of CI: 100 mutants take half an hour on two cores.
tests/README.md says what came of it.
"""

import argparse
import ast
import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
_CELLS = ["test_cells.py", "test_references.py", "test_recurrence.py", "test_masks.py", "test_compilation.py"]
_CELLS += ["test_bad_arguments.py"]
_ENGINE = ["test_recurrence.py", "test_recurrence_errors.py", "test_deferral.py", "test_compilation.py"]
_ENGINE += ["test_derivatives.py", "test_bad_arguments.py"]
_TRAINING = ["test_training.py", "test_devices.py", "test_killed.py", "test_bad_arguments.py"]
_LOADERS = ["test_hostile_files.py", "test_bad_arguments.py", "test_long_work.py"]
TESTS = {  # the quickest to notice first
    "cells/activations.py": _CELLS,
    "cells/gru.py": _CELLS,
    "cells/gru_reset_after.py": _CELLS,
    "cells/initializers.py": _CELLS,
    "cells/learned_state.py": _CELLS,
    "cells/lstm.py": _CELLS,
    "cells/products.py": _CELLS,
    "cells/settings.py": _CELLS,
    "cells/simple_rnn.py": _CELLS,
    "calls.py": _ENGINE,
    "choice.py": ["test_choice.py", "test_joint.py", *_ENGINE],
    "deferral.py": ["test_deferral.py", *_ENGINE],
    "forward.py": ["test_forward.py", *_ENGINE],
    "invariants.py": ["test_invariants.py", *_ENGINE],
    "joint.py": ["test_joint.py", *_ENGINE],
    "step_products.py": ["test_joint.py", *_ENGINE],
    "lookup.py": ["test_lookup.py", *_ENGINE],
    "recurrence.py": _ENGINE,
    "residuals.py": _ENGINE,
    "masks.py": ["test_masks.py", "test_devices.py", "test_bad_arguments.py"],
    "arguments.py": ["test_bad_arguments.py"],
    "checkpoints.py": ["test_checkpoints.py", "test_training.py", "test_killed.py"],
    "epochs.py": _TRAINING,
    "training.py": _TRAINING,
    "runs.py": _TRAINING,
    "processes.py": ["test_devices.py", "test_bad_arguments.py"],
    "row_keys.py": ["test_devices.py", "test_training.py"],
    "losses.py": ["test_losses.py", "test_training.py", "test_bad_arguments.py"],
    "optimizers.py": ["test_optimizers.py", "test_bad_arguments.py"],
    "sequences.py": ["test_sequences.py", "test_bad_arguments.py"],
    "timeseries.py": ["test_timeseries.py", "test_bad_arguments.py"],
    "text.py": ["test_text.py", "test_bad_arguments.py"],
    "vocabulary.py": ["test_vocabulary.py", "test_bad_arguments.py"],
    "word_vectors.py": ["test_word_vectors.py", "test_hostile_files.py", "test_bad_arguments.py"],
    "datasets/archives.py": [
        "test_datasets_archives.py",
        "test_datasets_files.py",
        "test_datasets_texts.py",
        *_LOADERS,
    ],
    "datasets/arrays.py": ["test_datasets_arrays.py", "test_datasets_words.py", *_LOADERS],
    "datasets/files.py": ["test_datasets_files.py", "test_datasets_archives.py", *_LOADERS],
    "datasets/imdb.py": ["test_datasets_words.py", *_LOADERS],
    "datasets/reuters.py": ["test_datasets_words.py", *_LOADERS],
    "datasets/word_sequences.py": ["test_datasets_words.py", *_LOADERS],
    "datasets/jena.py": ["test_datasets_jena.py", *_LOADERS],
}
_SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.MatMult: ast.Add,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


class Mutant(NamedTuple):
    """One change of one module."""

    module: str  # below jaxseq/
    line: int
    before: str
    after: str
    source: str  # of the whole module, changed


def main() -> None:
    """Draws mutants, runs their tests, prints those that live and what share was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)} (default: all)")
    parser.add_argument("--count", type=int, default=120, help="how many mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at a time (default: one a core)")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="of one mutant's tests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every mutant and what became of it")
    parser.add_argument("--again", action="store_true", help="tries those again that lived by --json, and draws none")
    options = parser.parse_args()
    if options.again:
        if options.json is None:
            parser.error("--again must come with --json")
        known: list[dict[str, Any]] = json.loads(options.json.read_text())
        tried, drawn = [], []
        for one in (one for one in known if one["fate"] == "lives"):
            again = _as_before(one)
            if again is None:
                one["fate"] = "gone"  # what it changed is there no more
            else:
                tried.append(one)
                drawn.append(again)
    else:
        drawn = draw(options.modules or list(TESTS), options.count, options.seed)
        known = tried = [{} for _ in drawn]
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        trees = [_copy(Path(folder) / str(number)) for number in range(options.jobs)]
        files = list(dict.fromkeys(name for mutant in drawn for name in TESTS[mutant.module]))
        unbroken = _run(trees[0], files, None)
        if unbroken.returncode:
            sys.exit(f"{unbroken.stdout.decode()[-5000:]}\nerror: the unbroken program must pass {', '.join(files)}")
        run = [pool.submit(_try, mutant, trees, options.timeout) for mutant in drawn]
        for one, mutant, future in zip(tried, drawn, run, strict=True):
            fate, seconds = future.result()
            fate = "killed since" if options.again and fate != "lives" else fate
            one.update(mutant._asdict(), fate=fate, seconds=round(seconds, 1))
            del one["source"]
            print(f"{fate}: {mutant.module}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
            if options.json:  # at once: an hour may be interrupted
                options.json.write_text(json.dumps([one for one in known if one], indent=1) + "\n")
    killed = sum(one["fate"] not in ("lives", "gone") for one in known)
    print(f"{killed} of {len(known)} mutants killed ({killed / len(known):.1%})")


def draw(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """So many mutants, the same for one seed: from a module as many as its share of all the changes there are."""
    every = [(module, *place) for module in modules for place in places(module)]
    return [mutant(*one) for one in sorted(random.Random(seed).sample(every, min(count, len(every))))]


def _as_before(one: dict[str, Any]) -> Mutant | None:
    """The same change as one that was written down, of the module as it is now, the nearest to where it was."""
    made = (mutant(one["module"], *place) for place in places(one["module"]))
    same = (again for again in made if (again.before, again.after) == (one["before"], one["after"]))
    return min(same, key=lambda again: abs(again.line - one["line"]), default=None)


def places(module: str) -> Iterator[tuple[int, int]]:
    """Every change of a module that this file knows: which node, and which of its changes."""
    tree = _parsed(module)
    skipped = _not_run(tree)
    for number, node in enumerate(ast.walk(tree)):
        if node not in skipped:
            yield from ((number, which) for which, _ in enumerate(_changes(node)))


def mutant(module: str, number: int, which: int) -> Mutant:
    """Makes one change of a module."""
    tree = _parsed(module)
    node: Any = list(ast.walk(tree))[number]
    before = ast.unparse(node)
    list(_changes(node))[which](node)
    return Mutant(module, node.lineno, _short(before), _short(ast.unparse(node)), ast.unparse(tree))


def _parsed(module: str) -> ast.Module:
    return ast.parse((ROOT / "jaxseq" / module).read_text())


def _not_run(tree: ast.AST) -> set[ast.AST]:
    """What no test can notice: annotations, docstrings, the messages of errors, that `zip` must come out even."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef):
            parts = [
                node.returns,
                *(argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg)),
            ]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Raise):
            parts = [node.exc]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts = [node]
        elif isinstance(node, ast.JoinedStr):
            parts = [node]
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            parts = [node]
        for part in parts:
            if part is not None:
                found.update(ast.walk(part))
    return found


def _changes(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    """What can be done to a node, in place."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _SWAPS:
        yield lambda same: setattr(same, "op", _SWAPS[type(same.op)]())
    if isinstance(node, ast.Compare):
        yield lambda same: setattr(same, "ops", [_SWAPS[type(op)]() for op in same.ops])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda same: setattr(same, "operand", ast.UnaryOp(ast.Not(), same.operand))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield lambda same: setattr(same, "op", ast.UAdd())
    if isinstance(node, ast.IfExp | ast.If | ast.While):
        yield lambda same: setattr(same, "test", ast.UnaryOp(ast.Not(), same.test))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield lambda same: setattr(same, "value", not same.value if isinstance(same.value, bool) else same.value + 1)
    if isinstance(node, ast.Call) and node.keywords and node.keywords[-1].arg != "strict":
        yield lambda same: setattr(same, "keywords", same.keywords[:-1])
    if isinstance(node, ast.Call) and len(node.args) > 1 and ast.dump(node.args[0]) != ast.dump(node.args[1]):
        yield lambda same: setattr(same, "args", [same.args[1], same.args[0], *same.args[2:]])
    if isinstance(node, ast.Return) and not isinstance(node.value, ast.Constant | None):
        yield lambda same: setattr(same, "value", None)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."


def _copy(folder: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".pytest_cache", ".hypothesis", "*.egg-info", "runs")
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


def _try(mutant: Mutant, trees: list[Path], timeout: float) -> tuple[str, float]:
    """Runs a mutant's tests in a free copy of the tree: (killed, hangs or lives; seconds)."""
    tree = trees.pop()
    file = tree / "jaxseq" / mutant.module
    original = file.read_text()
    start = time.monotonic()
    try:
        file.write_text(mutant.source)
        fate = "killed" if _run(tree, TESTS[mutant.module], timeout).returncode else "lives"
    except subprocess.TimeoutExpired:
        fate = "hangs"
    finally:
        file.write_text(original)
        trees.append(tree)
    return fate, time.monotonic() - start


def _run(tree: Path, files: list[str], timeout: float | None) -> subprocess.CompletedProcess:
    """Runs some files of tests in a copy of the tree, until one test fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += [f"tests/{name}" for name in files]
    cache = os.path.join(tempfile.gettempdir(), "jaxseq-mutants-compiled")
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=tree, env=environment, timeout=timeout, capture_output=True)


if __name__ == "__main__":
    main()
