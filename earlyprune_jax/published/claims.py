"""Every claim of both papers on runs of yours: the published numbers, ours, and a verdict.

earlyprune claims runs/paper_a-cifar10-short runs/paper_b-cifar10-short [--csv claims.csv]

A verdict is by a test over seeds, at 5 %: held, not held, not settled (the test allows both) or not
tested, with the reason. With one seed nothing is tested, and the numbers are shown all the same.
Each workdir is judged by itself, all its figures together. Epochs are parts of training, t / T.
Nothing is written but the file of `--csv`: a row per claim and curve, or group of curves compared.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import formatting, results
from earlyprune_jax.published import reproduce
from earlyprune_jax.published.claim_list import CLAIMS, Claim
from earlyprune_jax.published.evidence import (
    HELD,
    NOT_HELD,
    NOT_SETTLED,
    NOT_TESTED,
    Finding,
    Source,
    read,
)
from earlyprune_jax.validate import answer, gathering, refuse, unexpected

COLUMNS = (
    *("claim", "sentence", "figures", "published", "workdir", "where", "ours", "n", "test"),
    *("verdict", "reason", "p", "chosen_on", "scale", "changed"),
)
OWN = "own config"
"""The scale of a workdir that is of no published figure."""
ABSENT = Finding("", "", "", NOT_TESTED, "no run of this kind here")


def table(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Judges every claim on every workdir.

    Args:
        sources: of `sources_of`.

    Returns:
        Rows by `COLUMNS`: one per claim and finding, and one for a claim without any.

    Raises:
        InvalidInput: a comparison of a workdir is damaged.

    Example:
        >>> rows = table([])
        >>> len(rows), rows[0]["claim"], rows[0]["verdict"], rows[0]["published"][:21]
        (24, 'A1', 'not tested', 'before T/2 in 25 of 2')
    """
    return [row for claim in CLAIMS for row in _rows(claim, sources)]


def sources_of(workdirs: Sequence[str | Path]) -> list[Source]:
    """Reads workdirs.

    Raises:
        InvalidInput: one cannot be used, or is given twice; names all such.

    Example:
        >>> sources_of([])
        []
    """
    problems, sources = list[str](), list[Source]()
    paths = [Path(workdir).resolve() for workdir in workdirs]
    for workdir, path in zip(workdirs, paths, strict=True):
        with gathering(problems):
            if paths.count(path) > 1:
                raise unexpected("DIR", str(workdir), "to be given once")
            sources.append(read(workdir))
    refuse(problems)
    return sources


def _rows(claim: Claim, sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    about = {name: getattr(claim, name) for name in ("sentence", "figures", "test")}
    about |= {"claim": claim.name, "published": claim.published()}
    made = [
        {"workdir": source.name, "scale": _scale(source), "changed": _changed(source)}
        | dataclasses.asdict(finding)
        for source in sources
        for finding in claim.judge(source)
    ]
    for row in made or [dataclasses.asdict(ABSENT)]:
        yield dict.fromkeys(COLUMNS) | about | row


def _figure(source: Source) -> dict[str, Any]:
    """Gives the section of the published figure; empty where the workdir is of none."""
    figure = source.runs.config.get("figure", {})
    return figure if figure.get("name") else {}


def _scale(source: Source) -> str:
    return _figure(source).get("scale", OWN)


def _changed(source: Source) -> str:
    return "; ".join(_figure(source).get("changed", ()))


def _report(workdirs: Sequence[str], path: str | None) -> str:
    problems, sources = list[str](), list[Source]()
    with gathering(problems):
        if path and not Path(path).parent.is_dir():
            raise unexpected("--csv", path, "to lie in a folder that is there")
    with gathering(problems):
        sources = sources_of(workdirs)
    refuse(problems)
    rows = table(sources)
    if path:
        results.save(Path(path), rows, COLUMNS)
    lines = [line for claim in CLAIMS for line in _section(claim, rows)]
    return "\n".join([*lines, *_notes(sources, rows), *([f"File: {path}"] if path else ())])


def _section(claim: Claim, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Writes one claim: what was published, the test, and a line per finding."""
    own = [row for row in rows if row["claim"] == claim.name]
    yield formatting.wrapped(f"{claim.name}  {claim.sentence} ({claim.figures})")
    yield formatting.wrapped(f"  Published: {own[0]['published']}.")
    if not own[0]["workdir"]:
        yield f"  {_verdict(own[0])}"
        return
    yield formatting.wrapped(f"  Test: {claim.test}.")
    cells = [
        (f"{row['workdir']} ({row['scale']})", row["where"], row["ours"], row["n"], _verdict(row))
        for row in own
    ]
    yield formatting.aligned([("workdir", "where", "ours", "n", "verdict"), *cells])


def _verdict(row: dict[str, Any]) -> str:
    p = "" if row["p"] is None else f" (p {row['p']:.2g})"
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{row['verdict']}{p}{reason}"


def _notes(sources: Sequence[Source], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Says what the rows rest on: scales, splits, and how many verdicts there are of each kind."""
    for source in sources:
        figure = _figure(source)
        note = (reproduce.note_of(figure) if figure else "") or f"Scale: {_scale(source)}."
        yield formatting.wrapped(f"{source.name}: {note}")
        yield from (f"{source.name}: {said}" for said in formatting.coverage(source.runs))
    on_test = sum(row["chosen_on"] == "test" for row in rows)
    if on_test:
        yield formatting.wrapped(
            f"In {formatting.plural(on_test, 'row')} epochs were chosen on the test metric that is "
            "reported, for want of a validation split: they look a little better than they are."
        )
    yield formatting.wrapped(
        "Ours: the test metric at the last epoch, mean +- standard deviation over repeats; "
        "published accuracies are the best over epochs, on test."
    )
    yield formatting.wrapped(
        "Each row is decided at 5 % by itself: of 20 rows, one may be held or not held by chance."
    )
    counts = Counter(row["verdict"] for row in rows)
    kinds = (HELD, NOT_HELD, NOT_SETTLED, NOT_TESTED)
    yield f"Verdicts: {', '.join(f'{counts[kind]} {kind}' for kind in kinds)}."


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune claims",
        description="Judges every claim of both papers on your runs, beside the published numbers.",
    )
    made.add_argument("workdirs", metavar="DIR", nargs="+", help="a study's directory")
    made.add_argument("--csv", metavar="FILE", help="write the table there, such as claims.csv")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table. Returns 0, or 2 where the input cannot be used."""
    flags = parser().parse_args(arguments)
    return answer(lambda: _report(flags.workdirs, flags.csv))
