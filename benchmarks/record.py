"""A result as it grows: every case is in the file as soon as it is measured, so that a run that ends can go on."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measuring
from experiments.experiment import write_json

_PASSING = ("date", "load_average_before")  # of an environment: with another one the same is measured


class Record:
    """The cases of a result, and what they were asked for and measured on."""

    def __init__(
        self, path: Path | None, about: Mapping[str, Any], *, resume: bool = False, growing: Sequence[str] = ()
    ) -> None:
        """Begins a record, or goes on with the one that lies in a file.

        Args:
          path: of the JSON file; None writes nothing.
          about: what stands before the cases: benchmark, question, environment, settings.
          resume: whether cases that the file holds are taken from it.
          growing: settings that list what is measured, and may have become longer since.
        Raises:
          WrongArgument: there is a file that is no result, or one of another benchmark, machine, version or setting.
          OSError: it cannot be read.
        """
        self.path, self.about = path, _as_json(about)
        self.measured = 0  # cases of this run
        self._growing = {f"settings.{name}" for name in growing}
        self._before: dict[str, Any] = {}
        self._cases: list[dict[str, Any]] = []
        if resume and path is not None and path.exists():
            self._before, self._cases = _read(path, self.about)
            for name, value in self.about.items():
                self._check_same(name, value)

    def add_about(self, name: str, value: Any) -> Any:
        """Adds what stands before the cases and is known only now; gives it back.

        Raises:
          WrongArgument: cases were taken from a file that has another.
        """
        self.about[name] = _as_json(value)
        if name in self._before:
            self._check_same(name, self.about[name])
        return value

    def earlier(self, **work: Any) -> list[dict[str, Any]]:
        """The cases known so far that have these fields."""
        work = _as_json(work)
        return [case for case in self._cases if all(case.get(name) == value for name, value in work.items())]

    def case(self, work: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The case of a piece of work: the one that is known, else its fields and what `measure` finds, written."""
        found = self.earlier(**work)
        return found[0] if found else self.add({**work, **measure()})[0]

    def add(self, *cases: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """Writes cases into the file, and gives them back."""
        self._cases += _as_json(cases)
        self.measured += len(cases)
        self.write({**self.about, "cases": self._cases})
        return cases

    def write(self, result: Mapping[str, Any]) -> None:
        """Writes a result, whole or not at all."""
        if self.path is not None:
            write_json(self.path, result)

    def _check_same(self, name: str, value: Any) -> None:
        for where, now, before in _parts(name, value, self._before[name]):
            grown = where in self._growing and isinstance(before, list) and set(before) <= set(now)
            if now != before and not grown:
                rule = "some of the" if where in self._growing else "the same"
                raise measuring.WrongArgument(
                    f"argument --resume: {self.path} must be of {rule} {where}, {now!r}, got {before!r}; "
                    "--json FILE begins another"
                )


def _as_json(tree: Any) -> Any:
    """As a file gives it back: lists for tuples."""
    return json.loads(json.dumps(tree))


def _read(path: Path, names: Iterable[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What stands before a result's cases, these names at least, and the cases; not those that it names as not run."""
    try:
        found = json.loads(path.read_text())
        cases = [dict(case) for case in found["cases"] if "not_run" not in case]
        if not found.keys() >= set(names):
            raise LookupError
        return found, cases
    except (ValueError, LookupError, TypeError):
        raise measuring.WrongArgument(f"argument --resume: {path} is not the result of a benchmark") from None


def _parts(name: str, now: Any, before: Any) -> list[tuple[str, Any, Any]]:
    """(name, value now, value before) of each entry of a dictionary, but for what passes; else of the whole."""
    if not isinstance(now, dict) or not isinstance(before, dict):
        return [(name, now, before)]
    entries = (now | before).keys() - set(_PASSING)
    return [(f"{name}.{entry}", now.get(entry), before.get(entry)) for entry in sorted(entries)]
