"""What the grids show about the two regimes: a table per grid and a few lines, for the summary and
the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import words
from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.lead import LEVEL, MIN_REPEATS
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.regimes import transition
from earlyprune_jax.analysis.regimes.controls import SIGNAL, Baseline, over_rows
from earlyprune_jax.analysis.regimes.findings import DEPTH, Findings, Series, series
from earlyprune_jax.analysis.regimes.transition import Row
from earlyprune_jax.analysis.runs import Runs

MAX_BLOCKS = 3
"""More grids get a line each."""
MAX_LINES = 12
LEAD = (
    "Lead: of the early over the converged epochs, on left-out repeats. The early epoch is chosen "
    "without the repeat it is measured on, the converged one is the best of all."
)
TEST = (
    "p: one-sided, also after Holm over a grid's sparsities, where 5 % decide; at least "
    f"{MIN_REPEATS} repeats."
)
ONE_TRUNK = "One trunk seed: the spread is that of fine-tuning alone, not that of other trunks."


def paragraphs(findings: Sequence[Findings]) -> list[str]:
    """Writes a headed table per grid (a line each where there are many), then what holds across
    grids.

    Args:
        findings: of `findings.analyse`.

    Returns:
        Lines, not wrapped; two spaces before what belongs to a heading. Empty without grids.

    Example:
        >>> paragraphs([])
        []
    """
    blocks = map(_block, findings) if len(findings) <= MAX_BLOCKS else [_lines(findings)]
    lines = [line for block in blocks for line in block]
    converged = [f"Converged: {definition(one.runs)}." for one in findings if one.convergence]
    lines += dict.fromkeys(converged)
    if len(findings) <= MAX_BLOCKS:
        lines += [LEAD] * any(row.early for one in findings for row in one.rows)
        lines += [TEST] * any(one.line.num_tested for one in findings)
    by_place = {one.grid.place: one for one in findings}
    for place, one in by_place.items():
        # Does the break vanish where the trunk's rate never drops?
        twin = by_place.get(place.changed(schedule="constant"))
        if twin is not None and twin is not one:
            about = f"Trunks at a constant rate ({words.label(place.without('schedule'))})"
            lines.append(f"{about}: {line(twin)}; {place['schedule']} schedule: {line(one)}.")
    return lines + [text for over in series(findings) if (text := _across(over))]


def line(one: Findings) -> str:
    """Sums the regimes of a grid up: which epochs are significantly better, at which sparsities."""
    early = "early (this trunk)" if one.grid.repeat_kind == "replicate" else "early"
    if not one.line.num_tested:
        reasons = sorted({row.reason for row in one.rows if row.reason})
        return f"two regimes cannot be tested: {'; '.join(reasons)}"
    converged = [row.sparsity for row in one.rows if row.verdict == "converged"]
    late = f"converged at {words.percents(converged) if converged else 'none'}"
    if one.line.sparsity is None:
        return f"{early} is significantly better at no sparsity, {late}"
    both = any(sparsity < one.line.sparsity for sparsity in converged)
    text = (
        f"{early} is significantly better at {words.percents(one.early_sparsities)} removed, {late}"
    )
    text += f"; transition line: {words.removed(one.line.sparsity)} %"
    if one.line.exceptions:
        text += f", not a clean one: {words.percents(one.line.exceptions)} above it are not early"
    if one.line.sparsity == one.grid.sparsities[0]:
        text += ", the lightest sparsity tried, so only one regime was seen"
    return f"two regimes show: {text}" if both else text


def definition(runs: Runs) -> str:
    """Says what converged means, of the metrics that were recorded."""
    names = words.listed([column.replace("_", " ") for column in transition.train_columns(runs)])
    near = f"within {100 * transition.TOLERANCE:.0f} % of the total change from the final level"
    return f"the first epoch from which the running median of {names} stays {near}"


def repeats(grid: CellGrid) -> str:
    """Says on how much a grid rests: seeds and replicates."""
    seeds = words.plural(len(grid.seeds), "seed")
    more = f" x {words.plural(grid.num_replicates, 'replicate')}" if grid.num_replicates > 1 else ""
    return f"{seeds}{more}"


def chosen(grid: CellGrid) -> str:
    """Says what best epochs were chosen on."""
    note = "" if grid.split == "validation" else " (no validation split)"
    return f"chosen on {words.named(grid.metric, grid.split)}{note}"


def _size(grid: CellGrid) -> str:
    size = f"{len(grid.sparsities)} sparsities x {len(grid.epochs)} fork epochs"
    return f"{size}, {repeats(grid)}"


def _block(one: Findings) -> Iterator[str]:
    """Writes a heading, a row per sparsity, and lines on what the whole grid shows."""
    yield f"Regimes: {words.label(one.grid.place)}; {_size(one.grid)}, {chosen(one.grid)}."
    if one.grid.repeat_kind == "replicate":
        yield f"  {ONE_TRUNK}"
    yield f"  {_converged(one)}"
    shown = one.rows[-MAX_LINES:]
    yield from words.aligned([_headings(one), *(_cells(one, row) for row in shown)]).splitlines()
    if len(shown) < len(one.rows):
        yield "  Lighter sparsities are in regimes.csv."
    regimes = line(one)
    yield f"  {regimes[0].upper()}{regimes[1:]}."
    yield from _similarity(one)
    yield from _alignment(one)
    yield from _baselines(one)
    if num_failed := int(one.grid.num_failed.sum()):
        yield f"  {words.plural(num_failed, 'run')} diverged or failed, left out of these numbers."


def _lines(findings: Sequence[Findings]) -> Iterator[str]:
    """Writes a line per grid: the transition lines by the metric and by similarity."""
    places = [one.grid.place for one in findings]
    same = words.label(shared(places))
    about = f" ({same})" if same else ""
    yield f"Regimes of {len(findings)} grids{about}; details in regimes.csv:"
    for one in findings[:MAX_LINES]:
        alike = one.similarity.line if one.similarity else None
        also = "" if alike is None else f"; similarity alone: from {words.removed(alike)} % on"
        place = words.label(one.grid.place, varying(places))
        yield f"  {place}; {_size(one.grid)}: {line(one)}{also}."
    if len(findings) > MAX_LINES:
        yield f"  and {words.plural(len(findings) - MAX_LINES, 'more grid')}."
    if any(one.grid.repeat_kind == "replicate" for one in findings):
        yield f"  (this trunk): {ONE_TRUNK}"


def _converged(one: Findings) -> str:
    found = one.convergence
    if found is None:
        return "No trunk has been trained to its end, so nobody knows which epochs are early."
    seeds = sorted(set(found.by_seed.values()))
    spread = f" (seeds: {words.span(seeds, '-')})" if len(seeds) > 1 else ""
    moving = "" if found.settled else " It was still moving at the end."
    return f"Training converged at epoch {found.epoch} of {found.num_epochs}{spread}.{moving}"


def _headings(one: Findings) -> tuple[str, ...]:
    lead = ", ".join(filter(None, ("lead", words.difference_unit(one.grid.metric))))
    similar = ("divergence",) if one.similarity else ()
    return "% removed", "best epoch", "95 % interval", lead, "p", "Holm", "verdict", *similar


def _cells(one: Findings, row: Row) -> tuple[str, ...]:
    """Writes a row of the table; dashes where there is nothing."""
    best, lead, metric = row.best, row.early, one.grid.metric
    interval = words.span(best.interval, "-") if best and best.interval else "-"
    unit = f" {words.difference_unit(metric)}"
    p_values = (lead.p if lead else None, row.early_holm)
    cells = (
        words.removed(row.sparsity),
        str(best.epoch) if best else "-",
        interval,
        words.difference(lead.difference, metric).removesuffix(unit) if lead else "-",
        *("-" if p is None else f"{p:.2g}" for p in p_values),
        row.verdict,
    )
    if one.similarity is None:
        return cells
    mean = one.similarity.row_means[one.grid.sparsities.index(row.sparsity)]
    return (*cells, f"{mean:.3g}" if np.isfinite(mean) else "-")


def _similarity(one: Findings) -> Iterator[str]:
    """Says where similarity puts the line, how abrupt that is, and what the metric says."""
    found, agreement = one.similarity, one.agreement
    if found is None or agreement is None:
        return
    if found.line is None or found.explained is None:
        yield "  Model similarity: no split of the rows into similar and less similar ones."
        return
    share, ramp = 100 * found.explained, 100 * (found.ramp_explained or 0)
    text = f"Model similarity: line at {words.removed(found.line)} %"
    text += f" (explains {share:.0f} % of the variance between rows; of a ramp: {ramp:.0f} %)"
    if agreement.row_difference is not None:
        text += f", {agreement.row_difference:+d} rows from the metric's"
    if agreement.num_classed:
        text += f"; {agreement.same_class} of {agreement.num_classed} verdicts on the same side"
    yield f"  {text}. Correlations: agreement_* in regimes.csv."


def _alignment(one: Findings) -> Iterator[str]:
    """Says how far random_distance's peak lies from the best epochs, beside its controls."""
    heavier = one.grid.sparsities[len(one.grid.sparsities) // 2 :]
    markers = over_rows(one.alignments, one.early_sparsities or heavier)
    signal = next((marker for marker in markers if marker.name == SIGNAL), None)
    if signal is None:
        return
    rows = "the early rows" if one.early_sparsities else "the heavier half of the rows"
    names = {marker.name: marker.name for marker in markers} | {SIGNAL: "random distance's peak"}
    listed = [f"{names[marker.name]} {words.amount(marker.distance)}" for marker in markers]
    edges = f"; no interior peak in {signal.num_edges}" if signal.num_edges else ""
    seeds = f"{words.plural(signal.distance.n, 'seed')}{edges}"
    yield f"  Epochs away from the best epoch in {rows}: {', '.join(listed)} ({seeds})."


def _baselines(one: Findings) -> Iterator[str]:
    """Says by how much the best cell leads over each baseline at the heaviest sparsity."""
    by_name: dict[str, list[Baseline]] = {}
    for baseline in one.baselines:
        by_name.setdefault(baseline.name, []).append(baseline)
    if not by_name:
        return
    how = "left-out repeats" if one.grid.num_repeats > 1 else "chosen on the same runs: optimistic"
    yield f"  Lead of the best epoch over baselines at the heaviest sparsity ({how}):"
    for name, found in by_name.items():
        last = found[-1]
        lead = last.left_out.difference if last.left_out else last.difference
        budgets = f"{last.num_epochs} epochs in all, the cell {last.best_num_epochs}"
        text = f"{name} at {words.removed(last.sparsity)} % (epoch {last.epoch}, {budgets})"
        text += f": {words.difference(lead, one.grid.metric)} (n = {lead.n})"
        p_values = [b.left_out.p for b in found if b.left_out and b.left_out.p is not None]
        if p_values:
            num_clear = sum(p <= LEVEL for p in p_values)
            text += f", p <= .05 (no Holm) at {num_clear} of {len(p_values)} sparsities"
        yield f"    {text}."


def _across(over: Series) -> str | None:
    """Lists the best epochs of the heaviest common sparsity, from small to large."""
    if not (high := over.high_sparsities()):
        return None
    rows = [found.row(high[-1]) for found in over.findings]
    pairs: list[Any] = [pair for pair in zip(over.values, rows, strict=True) if pair[1].best]
    if len(pairs) < 2:
        return None
    listed = [f"{row.best.epoch} at {over.label(value)}" for value, row in pairs]
    inner = "model" if over.axis == DEPTH else "train_fraction"
    place = words.label(over.findings[0].grid.place.without(inner))
    about = f"Best epoch against {over.axis} at {words.removed(high[-1])} % removed ({place})"
    return f"{about}: {', '.join(listed)}."
