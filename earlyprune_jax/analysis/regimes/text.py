"""What the grids show about the two regimes: a table per grid and a few lines, for the summary and
the terminal."""

from collections.abc import Iterator, Sequence

import numpy as np

from earlyprune_jax.analysis import formatting
from earlyprune_jax.analysis.curves import CellGrid
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.regimes import controls, transition
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.transition import Row
from earlyprune_jax.analysis.runs import Runs

MAX_BLOCKS = 3
"""More grids get a line each."""
MAX_LINES = 12
NOTE = (
    "Lead: of the early over the converged epochs, the early one being chosen without the repeat "
    "that it is measured on; p: one-sided; Holm: p over a grid's sparsities, where 5 % decide."
)


def paragraphs(findings: Sequence[Findings]) -> list[str]:
    """Writes a headed table per grid, or of more than three grids a line each.

    Args:
        findings: of `findings.analyse`.

    Returns:
        Lines, not wrapped; two spaces before what belongs to a heading. Empty without grids.

    Example:
        >>> paragraphs([])
        []
    """
    if len(findings) > MAX_BLOCKS:
        return list(_lines(findings))
    lines = [line for one in findings for line in _block(one)]
    return lines + [NOTE] * any(row.early for one in findings for row in one.rows)


def line(one: Findings) -> str:
    """Sums the regimes of a grid up: which epochs are significantly better, at which sparsities."""
    early = "early (this trunk)" if one.grid.repeat_kind == "replicate" else "early"
    if not one.line.num_tested:
        reasons = sorted({row.reason for row in one.rows if row.reason})
        return f"two regimes cannot be tested: {'; '.join(reasons)}"
    converged = [row.sparsity for row in one.rows if row.verdict == "converged"]
    late = f"converged at {formatting.percents(converged) if converged else 'none'}"
    if one.line.sparsity is None:
        return f"{early} is significantly better at no sparsity, {late}"
    better = f"{early} is significantly better at {formatting.percents(one.early_sparsities)}"
    text = f"{better} removed, {late}; transition line: {formatting.removed(one.line.sparsity)} %"
    if one.line.exceptions:
        exceptions = formatting.percents(one.line.exceptions)
        text += f", not a clean one: {exceptions} above it are not early"
    if one.line.sparsity == one.grid.sparsities[0]:
        text += ", the lightest sparsity tried, so only one regime was seen"
    both = any(sparsity < one.line.sparsity for sparsity in converged)
    return f"two regimes show: {text}" if both else text


def definition(runs: Runs) -> str:
    """Says what converged means, of the metrics that were recorded."""
    metrics = transition.train_metrics(runs)
    names = formatting.listed([formatting.named(metric, "train") for metric in metrics])
    near = f"within {100 * transition.TOLERANCE:.0f} % of the total change from the final level"
    return f"the first epoch from which the running median of {names} stays {near}"


def basis(grid: CellGrid) -> str:
    """Says on how much a grid rests, and on what best epochs were chosen."""
    seeds = formatting.plural(len(grid.seeds), "seed")
    if grid.num_replicates > 1:
        seeds += f" x {formatting.plural(grid.num_replicates, 'replicate')}"
    if grid.repeat_kind == "replicate":
        seeds += " (the noise of fine-tuning alone)"
    note = "" if grid.split == "validation" else " (no validation split)"
    return f"{seeds}, chosen on {formatting.named(grid.metric, grid.split)}{note}"


def _size(grid: CellGrid) -> str:
    return f"{len(grid.sparsities)} sparsities x {len(grid.epochs)} fork epochs, {basis(grid)}"


def _block(one: Findings) -> Iterator[str]:
    """Writes a heading, a row per sparsity, a row per baseline, and what the whole grid shows."""
    yield f"Regimes: {formatting.label(one.grid.place)}; {_size(one.grid)}."
    shown = one.rows[-MAX_LINES:]
    yield from formatting.aligned([_headings(one), *(_cells(one, row) for row in shown)]).split(
        "\n"
    )
    if len(shown) < len(one.rows):
        yield "  Lighter sparsities are in regimes.csv."
    regimes = line(one)
    yield f"  {_converged(one)} {regimes[0].upper()}{regimes[1:]}{_by_similarity(one)}."
    yield from _distances(one)
    heaviest = [own for own in one.baselines if own.sparsity == one.baselines[-1].sparsity]
    if heaviest:
        unit = formatting.difference_unit(one.grid.metric)
        lead = formatting.with_unit("lead of the best epoch", unit)
        rows = [("baseline", "epoch", "epochs in all", "of the best", lead, "n", "p")]
        for own in heaviest:
            difference = own.left_out.difference if own.left_out else own.difference
            amount = formatting.difference(difference, one.grid.metric, unit=False)
            p = _p(own.left_out.p if own.left_out else None)
            lengths = str(own.num_epochs), str(own.best_num_epochs)
            rows.append((own.name, str(own.epoch), *lengths, amount, str(difference.n), p))
        yield f"  Baselines at {formatting.removed(heaviest[0].sparsity)} %, without Holm:"
        yield from formatting.aligned(rows).split("\n")


def _lines(findings: Sequence[Findings]) -> Iterator[str]:
    """Writes a line per grid."""
    places = [one.grid.place for one in findings]
    same = formatting.label(shared(places))
    about = f" ({same})" if same else ""
    yield f"Regimes of {len(findings)} grids{about}; details in regimes.csv:"
    for one in findings[:MAX_LINES]:
        place = formatting.label(one.grid.place, varying(places))
        yield f"  {place}; {_size(one.grid)}: {line(one)}{_by_similarity(one)}."
    if len(findings) > MAX_LINES:
        yield f"  and {formatting.plural(len(findings) - MAX_LINES, 'more grid')}."


def _converged(one: Findings) -> str:
    found = one.convergence
    if found is None:
        return "No trunk has been trained to its end, so nobody knows which epochs are early."
    seeds = sorted(set(found.by_seed.values()))
    spread = f" (seeds: {formatting.span(seeds, '-')})" if len(seeds) > 1 else ""
    moving = "" if found.settled else ", still moving at the end"
    return f"Training converged at epoch {found.epoch} of {found.num_epochs}{spread}{moving}."


def _headings(one: Findings) -> tuple[str, ...]:
    lead = formatting.with_unit("lead", formatting.difference_unit(one.grid.metric))
    similar = ("divergence",) if one.similarity else ()
    return "% removed", "best epoch", "95 % interval", lead, "p", "Holm", "verdict", *similar


def _cells(one: Findings, row: Row) -> tuple[str, ...]:
    """Writes a row of the table; dashes where there is nothing."""
    best, lead = row.best, row.early
    cells = (
        formatting.removed(row.sparsity),
        str(best.epoch) if best else "-",
        formatting.span(best.interval, "-") if best and best.interval else "-",
        formatting.difference(lead and lead.difference, one.grid.metric, unit=False),
        _p(lead and lead.p),
        _p(row.early_holm),
        row.verdict,
    )
    if one.similarity is None:
        return cells
    mean = one.similarity.row_means[one.grid.sparsities.index(row.sparsity)]
    return (*cells, f"{mean:.3g}" if np.isfinite(mean) else "-")


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _by_similarity(one: Findings) -> str:
    if one.similarity is None or one.similarity.line is None:
        return ""
    return f"; line by similarity alone: {formatting.removed(one.similarity.line)} %"


def _distances(one: Findings) -> Iterator[str]:
    """Says how far random_distance's peak lies from the best epochs, beside its controls."""
    heavier = one.grid.sparsities[len(one.grid.sparsities) // 2 :]
    markers = controls.distances(one.alignments, one.early_sparsities or heavier)
    if controls.SIGNAL in markers:
        rows = "the early rows" if one.early_sparsities else "the heavier half of the rows"
        listed = [
            f"{name.replace('_', ' ')} {formatting.amount(markers[name])}" for name in markers
        ]
        yield f"  Epochs away from the best epoch in {rows}: {', '.join(listed)}."
