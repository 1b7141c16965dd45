"""What is installed: every module, typed, with every dependency that is imported and no other, under known licences."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jaxseq

ROOT = Path(__file__).parent.parent
PACKAGE = Path(jaxseq.__file__).parent  # the source tree's, or the installed one
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTIONS = {"orbax": "orbax-checkpoint", "haiku": "dm-haiku"}  # of a module; others have its name
LICENCES = re.compile(
    "Apache|BSD|MIT|MPL-2.0|Python Software Foundation|PSF|Mozilla|ISC|Zlib|CC0|Historical Permission"
)


def requirements(extra: str = "") -> set[str]:
    project = PROJECT["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {Requirement(one).name for one in listed}


def imported(folder: Path) -> set[str]:
    """The distributions that a folder's files import, wherever in a file."""
    pattern = re.compile(r"^ *(?:from (\w+)(?:\.[\w.]+)? import |import (\w+))", re.MULTILINE)
    found = {a or b for path in folder.glob("**/*.py") for a, b in pattern.findall(path.read_text())}
    own = {"jaxseq", "experiments", "benchmarks", "tests"} | {path.stem for path in (ROOT / "tests").glob("*.py")}
    return {DISTRIBUTIONS.get(name, name) for name in found - own - set(sys.stdlib_module_names)}


def test_the_wheel_holds_every_module():
    """Setuptools takes the packages that are listed, and forgets the others without a word."""
    settings = PROJECT["tool"]["setuptools"]
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.glob("**/*.py")}
    assert set(settings["packages"]) == {".".join(folder.parts) for folder in folders}
    others = {path for path in PACKAGE.glob("**/*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert (
        {str(path.relative_to(PACKAGE)) for path in others} == set(settings["package-data"]["jaxseq"]) == {"py.typed"}
    )
    assert (PACKAGE / "py.typed").read_bytes() == b""


def test_the_source_distribution_holds_what_the_tests_need():
    manifest = (ROOT / "MANIFEST.in").read_text().split()
    for name in ("tests", "experiments", "benchmarks", "CHANGELOG.md", "SECURITY.md"):
        assert name in manifest and (ROOT / name).exists()
    assert PROJECT["project"]["license-files"] == ["LICENSE"] and PROJECT["project"]["readme"] == "README.md"
    assert not any(re.fullmatch(r"\*\.(py|json|css|md)", one) for one in manifest)


def test_every_dependency_is_imported_and_every_import_a_dependency():
    # The command line is no part of the wheel, but what it needs is: `pip install -e .` is all that it asks for.
    assert imported(PACKAGE) | imported(ROOT / "experiments") == requirements()
    assert imported(PACKAGE) == requirements() - {"matplotlib"}
    tools = {"pytest-xdist", "ruff", "pyright"}
    assert imported(ROOT / "benchmarks") <= requirements() | requirements("peers") | requirements("dev")
    tests = imported(ROOT / "tests")
    allowed = requirements() | requirements("dev") | requirements("peers") | {"packaging"}  # which pytest brings
    assert requirements("dev") - tools <= tests <= allowed


def test_every_requirement_has_a_lower_bound_and_no_other():
    """What is tested at both ends is the oldest allowed set and the newest there is."""
    project = PROJECT["project"]
    for one in [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]:
        assert re.fullmatch(r">=[\d.]+", str(Requirement(one).specifier)), one


def test_what_is_installed_meets_the_requirements():
    for one in PROJECT["project"]["dependencies"]:
        requirement = Requirement(one)
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


def brought() -> dict[str, importlib.metadata.Distribution]:
    """Everything that an installation brings, by name."""
    todo, found = [Requirement(one) for one in PROJECT["project"]["dependencies"]], {}
    seen = set()
    while todo:
        requirement = todo.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = importlib.metadata.distribution(requirement.name)
        found[canonicalize_name(requirement.name)] = distribution
        for one in map(Requirement, distribution.requires or ()):
            extras = ("", *requirement.extras)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(one)
    return found


def test_licences_are_known():
    listed = (ROOT / "SECURITY.md").read_text()
    for name, distribution in brought().items():
        about = distribution.metadata
        classified = [one for one in about.get_all("Classifier", []) if one.startswith("License")]
        said = (about.get("License") or "")[:100]  # some give the whole text, and other licences in it
        licence = " ".join(filter(None, [about.get("License-Expression"), said, *classified]))
        assert LICENCES.search(licence), f"{name}: {licence:.80}"
        assert not re.search("GPL|Affero|Commons Clause|SSPL", licence), f"{name}: {licence:.80}"
        if name in requirements():
            assert f"| `{name}`" in listed
    data = (ROOT / "README.md").read_text().split("## Data that users bring")[1]
    rows = [line for line in data.splitlines() if line.startswith("| ") and "`" in line and "---" not in line]
    assert len(rows) == 9 and all(row.split(" | ")[-1].strip(" |") for row in rows)


def test_the_project_says_what_it_trusts():
    assert "[SECURITY.md](SECURITY.md)" in (ROOT / "README.md").read_text()
    version = PROJECT["project"]["version"]
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
