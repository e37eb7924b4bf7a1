"""What the grids show about the two regimes: a table per grid and a few lines, for the summary and
the terminal."""

from collections.abc import Sequence

from earlyprune_jax.analysis import formatting
from earlyprune_jax.analysis.curves import CellGrid
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.stats import Stats, of_columns
from earlyprune_jax.metrics import Metric

MAX_TABLES = 3
"""Of more grids none has a table."""
MAX_LINES = 12
NOTE = (
    "Lead: of the early over the converged epochs, the early one being chosen without the repeat "
    "that it is measured on; p: one-sided; Holm: p over a grid's sparsities, where 5 % decide."
)


def paragraphs(findings: Sequence[Findings]) -> list[str]:
    """Says what each grid shows, of up to three grids with tables.

    Args:
        findings: of `findings.analyse`.

    Returns:
        Lines, not wrapped; two spaces before what belongs to a heading. Empty without grids.

    Example:
        >>> paragraphs([])
        []
    """
    lines, has_tables = [], len(findings) <= MAX_TABLES
    for one in findings[:MAX_LINES]:
        grid = one.grid
        size = f"{len(grid.sparsities)} sparsities x {len(grid.epochs)} fork epochs"
        lines.append(f"Regimes: {formatting.label(grid.place)}; {size}, {basis(grid)}.")
        lines += _table(one) if has_tables else []
        lines.append(f"  {_convergence(one)} {_verdict(one)}.")
    if len(findings) > MAX_LINES:
        more = formatting.plural(len(findings) - MAX_LINES, "more grid")
        lines.append(f"Regimes of {more} are in regimes.csv.")
    is_tested = any(row["left_out_early_n"] for one in findings for row in one.rows)
    return lines + [NOTE] * (has_tables and is_tested) + _equality(findings)


def _equality(findings: Sequence[Findings]) -> list[str]:
    """Says what equal means, and the margins, where any row was tested for it."""
    tested = [one for one in findings if any(row["p_equal"] is not None for row in one.rows)]
    margins = dict.fromkeys(within(one) for one in tested)
    if not margins:
        return []
    return [
        "Equal: neither is significantly better, and tests of both sides at 5 % after Holm say "
        "that the best early and the best converged epoch differ by less than "
        f"{', '.join(margins)} (--margin)."
    ]


def within(one: Findings) -> str:
    """Writes the margin of equality, in the unit of differences of the metric."""
    return formatting.difference(Stats(one.rows[0]["margin"], None, 1), one.grid.metric, sign=False)


def basis(grid: CellGrid) -> str:
    """Says on how much a grid rests, and on what best epochs were chosen."""
    seeds = formatting.plural(len(grid.seeds), "seed")
    if grid.num_replicates > 1:
        seeds += f" x {formatting.plural(grid.num_replicates, 'replicate')}"
    if grid.repeat_kind == "replicate":
        seeds += " (the noise of fine-tuning alone)"
    note = "" if grid.split == "validation" else " (no validation split)"
    return f"{seeds}, chosen on {formatting.named(grid.metric, grid.split)}{note}"


def _verdict(one: Findings) -> str:
    """Sums the regimes up: which epochs are significantly better, at which sparsities."""
    tested = [row for row in one.rows if row["verdict"] != "untested"]
    if not tested:
        reasons = dict.fromkeys(row["reason"] for row in one.rows)
        return f"Two regimes cannot be tested: {'; '.join(reasons)}{_untested(one)}"
    line, alike = (one.rows[0][f"{by}transition_sparsity"] for by in ("", "similarity_"))
    early = "early (this trunk)" if one.grid.repeat_kind == "replicate" else "early"
    better = f"{formatting.percents(one.early_sparsities)} removed" if line else "no sparsity"
    converged, equal = one.judged("converged"), one.judged("equal")
    late = formatting.percents(converged) if converged else "none"
    text = f"{early} is significantly better at {better}, converged at {late}"
    # The line lies above what is significantly better converged.
    both = line is not None and any(sparsity < line for sparsity in converged)
    text = f"Two regimes show: {text}" if both else f"{text[0].upper()}{text[1:]}"
    if line is not None:
        text += f"; transition line: {formatting.removed(line)} %"
        above = [row["sparsity"] for row in tested if row["sparsity"] > line]
        if others := [sparsity for sparsity in above if sparsity not in one.early_sparsities]:
            text += f", not a clean one: {formatting.percents(others)} above it are not early"
        if line == one.grid.sparsities[0]:
            text += ", the lightest sparsity tried, so only one regime was seen"
    if equal:
        text += f"; both are equally good, within {within(one)}, at {formatting.percents(equal)}"
    return text + (f"; line by similarity alone: {formatting.removed(alike)} %" if alike else "")


def _untested(one: Findings) -> str:
    """Says what is known without a test: the best of both sides, and how far repeats scatter."""
    leads = [row["advantage_mean"] for row in one.rows if row["advantage_n"]]
    stds = [row["cell_std"] for row in one.rows if row["cell_std"] is not None]
    if not leads or not stds:
        return ""
    metric, kind = one.grid.metric, one.grid.repeat_kind
    return (
        f"; the best early epochs are {_range(leads, metric)} from the best converged ones, and "
        f"{kind}s of a cell scatter by {_range(stds, metric, sign=False)} (std)"
    )


def _range(values: Sequence[float], metric: Metric, **options: bool) -> str:
    ends = (Stats(end, None, 1) for end in (min(values), max(values)))
    return formatting.span([formatting.difference(end, metric, **options) for end in ends])


def _convergence(one: Findings) -> str:
    known = one.convergence
    if known is None:
        return "No trunk has been trained to its end, so nobody knows which epochs are early."
    moving = "" if known.settled else ", still moving at the end"
    return f"Training of {known.num_epochs} epochs converged at epoch {known.text}{moving}."


def _table(one: Findings) -> list[str]:
    """Writes a row per sparsity; dashes where there is nothing."""
    metric = one.grid.metric
    lead = formatting.with_unit("lead", formatting.difference_unit(metric))
    table = [["% removed", "best epoch", "95 % interval", lead, "p", "Holm", "verdict"]]
    for row in one.rows[-MAX_LINES:]:
        interval = row["interval_low"], row["interval_high"]
        difference = of_columns("left_out_early", row)
        table.append(
            [
                formatting.removed(row["sparsity"]),
                _cell(row["best_epoch"]),
                "-" if None in interval else formatting.span(interval, "-"),
                formatting.difference(difference, metric, unit=False),
                _cell(row["p_early"], ".2g"),
                _cell(row["p_early_holm"], ".2g"),
                row["verdict"],
            ]
        )
    divergences = [row["model_similarity"] for row in one.rows[-MAX_LINES:]]
    if any(divergences):
        table[0].append("divergence")
        for cells, divergence in zip(table[1:], divergences, strict=True):
            cells.append(_cell(divergence, ".3g"))
    lighter = ["  Lighter sparsities are in regimes.csv."] * (len(one.rows) > MAX_LINES)
    return formatting.aligned(table).split("\n") + lighter


def _cell(value: float | None, digits: str = "") -> str:
    return "-" if value is None else f"{value:{digits}}"
