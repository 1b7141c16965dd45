"""All results as one HTML page that needs nothing else: pictures, style and text in a single file."""

import base64
import errno
import html
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import claims, judging, report
from experiments.experiment import UserError

_LONG = 12  # rows: a longer table is folded
_SMALL = 200  # pixels: a narrower picture is a sample, shown enlarged

_STYLE = Path(__file__).with_name("page.css")


def write(directory: Path, path: Path) -> None:
    """Writes the page of DIR's results to a file: the old page stays, or the new one is there, never half of one.

    Args:
      directory: DIR, as `run` wrote it.
      path: the HTML file.
    Raises:
      UserError: DIR holds no results, or the file cannot be written.
    """
    contents = build(report.read_results(directory), directory).encode("utf-8", "replace")
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            with temporary.open("wb") as stream:
                stream.write(contents)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"--html must be a file in a directory that can be written, got {path}: {error.strerror or error}"
        ) from None


def build(results: list[dict[str, Any]], directory: Path) -> str:
    """The page.

    Args:
      results: as `report.read_results` gives them.
      directory: where their pictures lie, DIR/NAME/*.png.
    Returns:
      HTML.
    """
    judged = claims.judge({result["name"]: result for result in results})
    names = {result["name"] for result in results}
    marked = [result["name"] for result in results if report.marks(result)]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>jaxseq: what the documents say and what was measured</title>",
        f"<style>{_STYLE.read_text()}</style></head>",
        "<body>",
        "<header><h1>What the documents say and what was measured</h1>",
        f"<p>{len(results)} experiments of <code>jaxseq</code> on the recurrent networks of five documents, and the "
        f"{len(claims.CLAIMS)} sentences of theirs that can be checked. A figure is the mean ± the standard deviation "
        f"over the seeds; {report.in_all(results)}.</p>",
    ]
    if marked:
        parts.append(
            f'<p class="warning">{_links(marked)}: on SYNTHETIC data or as a SMOKE run. These figures test the '
            "program; they say nothing about the documents'.</p>"
        )
    parts += ["</header>", "<main>", _contents(results), _overview(results), _claims(judged, names)]
    parts.append('<h2 id="experiments">Experiments</h2>')
    parts += [_experiment(result, directory / result["name"], judged) for result in results]
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts += [
        "</main>",
        f"<footer><p>Written {written} by <code>python -m experiments report --html</code> from "
        f"<code>{_escape(directory)}</code>. A picture grows to its full size when it is tapped, and shrinks again."
        "</p></footer>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _escape(value: Any) -> str:
    """Text for HTML; a figure stays in one line with its ± and its exponent."""
    text = report.printable(str(value)).replace(" ± ", "\xa0±\xa0").replace(" %", "\xa0%")
    return html.escape(re.sub(r"(?<=\de-)(?=\d)", "\u2060", text))  # a word joiner: no line ends after the hyphen


def _links(names: list[str]) -> str:
    return ", ".join(f'<a href="#{_escape(name)}"><code>{_escape(name)}</code></a>' for name in names)


def _contents(results: list[dict[str, Any]]) -> str:
    parts = ['<nav aria-label="contents"><h2 id="contents">Contents</h2><ul>']
    for place, title in (("overview", "Overview"), ("claims", "Claims"), ("experiments", "Experiments")):
        parts.append(f'<li><a href="#{place}">{title}</a></li>')
    parts.append("</ul>")
    for document in sorted({result.get("document", "") for result in results}):
        parts.append(f"<p><code>{_escape(document)}</code></p><ul>")
        for result in results:
            if result.get("document", "") == document:
                name = _escape(result["name"])
                parts.append(f'<li><a href="#{name}">{name}</a></li>')
        parts.append("</ul>")
    return "\n".join([*parts, "</nav>"])


def _overview(results: list[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        name = _escape(result["name"])
        cells = [
            f'<a href="#{name}"><code>{name}</code></a>{_badges(result)}',
            _escape(_documented(result)),
            _measured(result),
            _escape(report.outcome(result) or "–"),
        ]
        rows.append(("", bool(report.marks(result)), cells))
    cards = _cards(["experiment", "documented", "measured", "documented figure"], rows, "overview")
    return f'<h2 id="overview">Overview</h2>\n<p>{_escape(report.EXPLANATION)}</p>\n{cards}'


def _documented(result: dict[str, Any]) -> str:
    return report.row(result, result)[4]


def _measured(result: dict[str, Any]) -> str:
    """The figures of the parts that there are, as HTML."""
    parts = {"final": "last epoch", "best": "best epoch", "test": "test, best epoch", "test_final": "test, last epoch"}
    if not report.runs_of(result):
        parts = {"final": "measured", "test": "test"}
    figures, units = result["figures"], result.get("units")
    of = f"{result['label']}, " if result.get("label") else ""
    lines = [f"{of}{name}: {report.shown(figures[part], units)}" for part, name in parts.items() if figures.get(part)]
    return _listed(lines) if lines else "–"


def _badges(result: dict[str, Any]) -> str:
    words = report.marks(result).split()
    badges = [f' <span class="badge loud">{word}</span>' for word in words]
    if report.other_data(result) and not words:
        badges.append(' <span class="badge not-testable">other data</span>')
    return "".join(badges)


def _table(
    header: list[Any], rows: list[tuple[bool, list[tuple[str, str]]]], label: str, *, folded: bool = False
) -> str:
    """A table in a container of its own that scrolls.

    Args:
      header: texts.
      rows: (whether it is loud, cells as (class, HTML)).
      label: what it is, for those who do not see it.
      folded: whether it is folded where it is long.
    """
    classes = [cell[0] for cell in rows[0][1]] if rows else [""] * len(header)
    parts = [f'<div class="scroll" tabindex="0" role="region" aria-label="{_escape(label)}">']
    parts.append("<table><thead><tr>")
    for title, kind in zip(header, classes, strict=False):
        parts.append(f'<th scope="col"{_class("number") * (kind == "number")}>{_escape(title)}</th>')
    parts.append("</tr></thead><tbody>")
    for loud, cells in rows:
        parts.append(f"<tr{_class('loud-row') * loud}>")
        parts += [f"<td{_class(kind) if kind else ''}>{contents}</td>" for kind, contents in cells]
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    table = "".join(parts)
    if folded and len(rows) > _LONG:
        return f"<details><summary>{len(rows)} rows</summary>{table}</details>"
    return table


def _class(name: str) -> str:
    return f' class="{name}"'


def _claims(judged: list[tuple[claims.Claim, judging.Judgement]], names: set[str]) -> str:
    counts = claims.count(judged)
    parts = ['<h2 id="claims">Claims</h2>', '<ul class="counts">']
    parts += [f"<li>{_verdict(verdict)} {number}</li>" for verdict, number in counts.items()]
    parts.append(f"</ul><p>{_escape(claims.INTRODUCTION)}</p><details><summary>The rules</summary>")
    parts.append(f"{_listed(list(judging.RULES))}</details>")
    rows = []
    for claim, judgement in judged:
        where = ", ".join(f"<code>{_escape(document)}</code>" for document in claim.documents)
        cells = [
            f'{claim.number}. {_escape(claim.sentence)}<p class="soft">{where}</p>',
            f"{_verdict(judgement.verdict)}{_why(judgement)}",
            _listed(judgement.measured.split("; ")) if judgement.measured else "–",
            _linked(claim.tests, names),
        ]
        rows.append((f"claim-{claim.number}", False, cells))
    parts.append(_cards(["claim", "verdict", "measured", "tested by"], rows, "claims"))
    return "\n".join(parts)


def _why(judgement: judging.Judgement) -> str:
    """The reason, or each part's verdict and reason."""
    if not judgement.parts or judgement.verdict == judging.NOT_RUN:
        return f"<p>{_escape(judgement.why)}</p>"
    return "".join(
        f'<p>{_escape(name)}: <b class="{_slug(one.verdict)}">{one.verdict}</b>, {_escape(one.why)}</p>'
        for name, one in judgement.parts
    )


def _cards(header: list[str], rows: list[tuple[str, bool, list[str]]], label: str) -> str:
    """A table that on a phone is a card a row.

    Args:
      header: texts.
      rows: (the row's id in the page or "", whether it is loud, cells as HTML).
      label: what it is.
    """
    parts = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_escape(label)}"><table class="cards"><thead>'
    ]
    titles = [f'<th scope="col">{_escape(title)}</th>' for title in header]
    parts.append(f"<tr>{''.join(titles)}</tr></thead><tbody>")
    for place, loud, cells in rows:
        anchor = f' id="{place}"' if place else ""
        parts.append(f"<tr{anchor}{_class('loud-row') * loud}>")
        first, *others = cells
        parts.append(f"<td>{first}</td>")
        for title, cell in zip(header[1:], others, strict=True):
            parts.append(f'<td data-label="{_escape(title)}">{cell}</td>')
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    return "".join(parts)


def _verdict(verdict: str) -> str:
    return f'<span class="badge {_slug(verdict)}">{verdict}</span>'


def _slug(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _listed(texts: list[str]) -> str:
    items = "".join(f"<li>{_escape(text)}</li>" for text in texts)
    return f'<ul class="notes">{items}</ul>'


def _linked(text: str, names: set[str]) -> str:
    """Text in which the names of experiments lead to them."""
    pieces = re.split(r"(\w+)", text)
    return "".join(_links([piece]) if piece in names else _escape(piece) for piece in pieces)


def _experiment(result: dict[str, Any], directory: Path, judged: list[tuple[claims.Claim, judging.Judgement]]) -> str:
    name = _escape(result["name"])
    study = result.get("study", {})
    parts = [
        f'<section class="experiment" id="{name}"><header><h3><code>{name}</code>{_badges(result)}</h3>',
        f"<p>{_escape(result.get('title', ''))}</p></header>",
    ]
    if report.marks(result):
        parts.append(
            f'<p class="warning">{_escape(report.marks(result).strip())}: these figures test the program; they say '
            "nothing about the document's.</p>"
        )
    against = report.against_document(result)
    reached = f"<p>{_escape(against)}</p>" if against else ""
    parts.append(
        f'<div class="beside"><div><b>documented</b>{_escape(_documented(result))}'
        f'<p class="soft"><code>{_escape(result.get("document", ""))}</code></p></div>'
        f"<div><b>measured</b>{_measured(result)}{reached}</div></div>"
    )
    if result.get("history"):
        parts.append(_variants(result))
    parts.append(_pictures(result, directory))
    if study.get("figures"):
        rows = [
            (False, [("words", _escape(title)), ("number", _escape(report.text(title, value)))])
            for title, value in study["figures"].items()
        ]
        parts += ["<h4>Study</h4>", _table(["figure", "value"], rows, f"figures of the study of {name}", folded=True)]
    for title, (header, *rows) in study.get("tables", {}).items():
        parts += [f"<h4>{_escape(title)}</h4>", _study_table(title, header, rows)]
    of_result = report.notes(result)
    if of_result:
        parts += [
            "<h4>Notes</h4>",
            _listed(of_result),
        ]
    tested = [pair for pair in judged if result["name"] in re.findall(r"\w+", pair[0].tests)]
    if tested:
        parts.append('<h4>Claims tested here</h4><ul class="notes">')
        parts += [
            f'<li><a href="#claim-{claim.number}">{claim.number}</a>: {_escape(claim.sentence)} '
            f"{_verdict(judgement.verdict)}</li>"
            for claim, judgement in tested
        ]
        parts.append("</ul>")
    parts.append(f'<h4>Ran on</h4><p class="soft">{_escape(report.ran_on(result))}</p></section>')
    return "\n".join(parts)


def _variants(result: dict[str, Any]) -> str:
    rows = []
    for variant in report.variants(result):
        _, data, parameters, runs, _, *figures, seconds, of_epoch = report.row(result, variant)
        label = variant.get("label") or "as documented"
        rows.append(
            (
                bool(report.marks(variant)),
                [
                    ("words", _escape(label) + (" (control)" if variant is not result else "")),
                    ("words", _escape(data)),
                    ("number", _escape(parameters)),
                    ("number", _escape(runs)),
                    *(("nowrap", _escape(figure)) for figure in figures),
                    ("number", _escape(seconds)),
                    ("number", _escape(of_epoch)),
                ],
            )
        )
    header = ["variant", "data", "parameters", "seeds × epochs", "last epoch", "best epoch", "test, best epoch"]
    header += ["test, last epoch", "seconds", "seconds an epoch and seed"]
    return "<h4>Trained</h4>" + _table(header, rows, f"variants of {result['name']}", folded=True)


def _study_table(title: str, header: list[Any], rows: list[list[Any]]) -> str:
    def is_number(column: int) -> bool:
        cells = [row[column] for row in rows if column < len(row)]
        return all(isinstance(cell, (int, float)) or (isinstance(cell, dict) and "mean" in cell) for cell in cells)

    kinds = ["number" if is_number(column) else "" for column in range(len(header))]
    body = [
        (
            False,
            [
                (kind, _escape(report.text(str(name), cell)))
                for kind, name, cell in zip(kinds, header, row, strict=False)
            ],
        )
        for row in rows
    ]
    return _table(header, body, title, folded=True)


def _pictures(result: dict[str, Any], directory: Path) -> str:
    """Every DIR/NAME/*.png: the curves first, small samples last and side by side."""
    paths = sorted(directory.glob("*.png"), key=lambda path: (path.name != "curves.png", path.name))
    large, small = [], []
    for path in paths:
        contents = b"" if path.is_symlink() else path.read_bytes()  # a link may lead to a picture of another's
        if not contents.startswith(b"\x89PNG\r\n\x1a\n"):
            continue
        width, height = (int.from_bytes(contents[place : place + 4], "big") for place in (16, 20))
        caption = _caption(result, path)
        image = (
            f'<img src="data:image/png;base64,{base64.b64encode(contents).decode()}" width="{width}" height="{height}" '
            f'alt="{_escape(result["name"])}: {_escape(caption)}">'
        )
        caption = f"<figcaption>{_escape(caption)}</figcaption>"
        if width < _SMALL:
            small.append(f"<figure>{image}{caption}</figure>")
        else:
            zoom = '<input type="checkbox" aria-label="full size">'
            large.append(f'<figure><label class="picture">{zoom}{image}</label>{caption}</figure>')
    samples = [f'<div class="samples">{"".join(small)}</div>'] if small else []
    return "\n".join([*large, *samples])


def _caption(result: dict[str, Any], path: Path) -> str:
    mark = f"{report.marks(result).strip()}: " if report.marks(result) else ""
    if path.name == "curves.png":
        seeds = len(result["seeds"])
        of_seeds = f"mean of {seeds} seeds, the band from least to greatest" if seeds > 1 else "one seed"
        return f"{mark}training and validation over the epochs, {of_seeds}"
    return mark + path.stem.replace("_", " ").replace("-", " ")
