"""Sentences on one grid: convergence, best epochs, regimes, similarity, random_distance,
baselines."""

from collections.abc import Sequence

from earlyprune_jax.analysis import words
from earlyprune_jax.analysis.lead import LEVEL
from earlyprune_jax.analysis.regimes.alignment import SIGNAL, Marker, over_rows
from earlyprune_jax.analysis.regimes.baselines import Baseline
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.transition import Row
from earlyprune_jax.analysis.stats import Stats

MAX_NAMED = 9
"""Best epochs that are listed, from the heaviest sparsity down."""


def convergence(one: Findings) -> str:
    """When training had converged."""
    found = one.convergence
    if found is None:
        return "No trunk has been trained to its end, so nobody knows which epochs are early."
    seeds = sorted(set(found.by_seed.values()))
    spread = f" (seeds: {words.span(seeds, '-')})" if len(seeds) > 1 else ""
    text = f"Training converged at epoch {found.epoch} of {found.num_epochs}{spread}."
    return text if found.settled else f"{text} It was still moving at the end."


def best(rows: Sequence[Row]) -> str:
    """Best epochs from the lightest to the heaviest row, those that share one together."""
    parts: list[tuple[list[float], str]] = []
    for row in rows:
        if row.best is None:
            continue
        interval = row.best.interval
        text = str(row.best.epoch) + (f" ({interval[0]}-{interval[1]})" if interval else "")
        if parts and parts[-1][1] == text:
            parts[-1][0].append(row.sparsity)
        else:
            parts.append(([row.sparsity], text))
    named = [f"{text} at {words.percents(sparsities)}" for sparsities, text in parts]
    has_interval = any(row.best and row.best.interval for row in rows)
    unit = " (95 % bootstrap interval)" if has_interval else " (too few repeats for an interval)"
    rest = "; lighter ones are in regimes.csv" if len(named) > MAX_NAMED else ""
    return f"Best epoch{unit}, % removed: {'; '.join(named[-MAX_NAMED:])}{rest}."


def regime(one: Findings) -> str:
    """Whether two regimes show, and on what that rests."""
    rows, line = one.rows, one.line
    if not line.num_tested:
        reasons = {row.reason for row in rows if row.reason}
        early = [row.sparsity for row in rows if _looks_early(one, row)]
        which = (
            f"the best epoch is early at {words.percents(early)}"
            if early
            else "no best epoch is early"
        )
        looks = f" Untested, by the means alone {which}." if one.convergence else ""
        return f"Two regimes cannot be tested: {'; '.join(sorted(reasons))}.{looks}"
    converged = [row.sparsity for row in rows if row.verdict == "converged"]
    late = (
        f" Converged is significantly better at {words.percents(converged)}."
        if converged
        else (" At no sparsity is converged significantly better.")
    )
    untested = [row.sparsity for row in rows if row.verdict == "untested"]
    rest = f" Untested: {words.percents(untested)}." if untested else ""
    if line.sparsity is None:
        return f"No sparsity's best epoch is significantly before convergence.{_nearest(one)}{late}{rest}"
    both = any(sparsity < line.sparsity for sparsity in converged)
    early = early_word(one)
    text = f"{f'Two regimes show: {early}' if both else early.capitalize()} is significantly better at "
    text += f"{words.percents(one.early_sparsities)} removed: the "
    text += f"transition line lies at {words.removed(line.sparsity)} %. {_largest_lead(one)}{late}{rest}"
    if line.exceptions:
        text += f" Not a clean line: above it, {'; '.join(_exceptions(one))}."
    if line.sparsity == one.grid.sparsities[0]:
        text += " It is the lightest sparsity tried, so only one regime was seen."
    return text


def line(one: Findings) -> str:
    """The transition line in a few words."""
    found = one.line
    if not found.num_tested:
        return "too little for a test"
    if found.sparsity is None:
        return f"no sparsity is significantly {early_word(one)}"
    clean = f", but {'; '.join(_exceptions(one))}" if found.exceptions else ""
    return f"{early_word(one)} is significantly better from {words.removed(found.sparsity)} % on{clean}"


def _exceptions(one: Findings) -> list[str]:
    """What the rows above the line that are not early show instead: nothing, or the contrary."""
    above = [row for row in one.rows if row.sparsity in one.line.exceptions]
    kinds = (
        ("not settled", "the lead is not significant"),
        ("converged", "it is significantly the other way"),
    )
    rows = [
        (told, [row.sparsity for row in above if row.verdict == verdict]) for verdict, told in kinds
    ]
    return [f"at {words.percents(own)} {told}" for told, own in rows if own]


def early_word(one: Findings) -> str:
    """Names the verdict "early"; of a single trunk seed, with the noise of fine-tuning alone, it
    says so."""
    return "early (this trunk)" if one.grid.repeat_kind == "replicate" else "early"


def points(one: Findings, found: Stats) -> str:
    """Writes how much better something is, with its spread and n."""
    return f"{words.difference(found, one.grid.metric)} (n = {found.n})"


def _looks_early(one: Findings, row: Row) -> bool:
    return bool(one.convergence and row.best and row.best.epoch < one.convergence.epoch)


def _largest_lead(one: Findings) -> str:
    early = [row for row in one.rows if row.verdict == "early" and row.early is not None]
    top = max(early, key=lambda row: row.early.difference.mean if row.early else 0.0)
    assert top.early is not None and top.early_holm is not None
    lead, p = points(one, top.early.difference), words.p_value(top.early_holm)
    return f"Largest lead on left-out repeats: {lead} at {words.removed(top.sparsity)} % ({p} after Holm)."


def _nearest(one: Findings) -> str:
    """The row that comes closest, so that "no" can be told from "not enough data"."""
    known = [row for row in one.rows if row.early is not None and row.early.p is not None]
    top = min(known, key=lambda row: (row.early and row.early.p) or 0.0)
    assert top.early is not None and top.early.p is not None and top.early_holm is not None
    lead = f"{points(one, top.early.difference)}, {words.p_value(top.early.p)}"
    holm = words.p_value(top.early_holm)
    text = f" Closest: {words.removed(top.sparsity)} % with {lead}, {holm} after Holm."
    alone = [row.sparsity for row in known if row.early and (row.early.p or 1.0) <= LEVEL]
    return f"{text} Without Holm: {words.percents(alone)}." if alone else text


def similarity(one: Findings) -> str | None:
    """Where similarity puts the line, how abrupt that is, how it agrees; None without
    comparisons."""
    found, agreement = one.similarity, one.agreement
    if found is None or agreement is None:
        return None
    if found.line is None or found.explained is None:
        return "Model similarity: no split of the rows into similar and less similar ones."
    name = one.grid.metric.name.replace("_", " ")
    text = (
        f"Model similarity alone puts the line at {words.removed(found.line)} % (the split that explains "
        f"{100 * found.explained:.0f} % of the variance between rows; a straight ramp would give "
        f"{100 * (found.ramp_explained or 0):.0f} %)"
    )
    if agreement.row_difference is None:
        text += f"; there is no line from {name} to compare it with."
    elif agreement.row_difference == 0:
        text += f", where {name} puts it."
    else:
        side = "below" if agreement.row_difference < 0 else "above"
        rows = words.plural(abs(agreement.row_difference), "row")
        text += f", {rows} {side} the line from {name}."
    return text + _correlations(one) + _agreement(one)


def _agreement(one: Findings) -> str:
    """How often both put a row on the same side, how far the lines lie apart, and the cells."""
    found, parts = one.agreement, []
    if found is None:
        return ""
    if found.num_classed:
        rows = words.plural(found.num_classed, "row")
        parts.append(f"puts {found.same_class} of {rows} with a verdict on the same side")
    if found.sparsity_difference is not None:
        parts.append(
            f"draws the line {100 * found.sparsity_difference:+.4g} points of sparsity from it"
        )
    if found.cell_correlation is not None:
        rho = f"{found.cell_correlation:+.2f} over {words.plural(found.num_cells, 'cell')}"
        parts.append(f"has a rank correlation with a cell's loss against its row's best of {rho}")
    name = one.grid.metric.name.replace("_", " ")
    return f" Against {name}, similarity {'; '.join(parts)}." if parts else ""


def _correlations(one: Findings) -> str:
    found = one.agreement
    if found is None or found.row_correlation is None:
        return ""
    own = f"{found.row_correlation:+.2f}"
    if found.sparsity_correlation is not None:
        own += f" (sparsity itself: {found.sparsity_correlation:+.2f})"
    about = "Rank correlation of a row's divergence with its early advantage"
    return f" {about}: {own}, {found.num_rows} rows."


def alignment(one: Findings) -> str | None:
    """How far random_distance's peak lies from the best epochs, beside its controls; None without
    it."""
    sparsities = one.early_sparsities or one.grid.sparsities[len(one.grid.sparsities) // 2 :]
    markers = over_rows(one.alignments, sparsities)
    signal = next((marker for marker in markers if marker.name == SIGNAL), None)
    controls = [marker for marker in markers if marker.name != SIGNAL]
    if signal is None:
        return None
    rows = "the early rows" if one.early_sparsities else "the heavier half of the rows"
    text = f"Random distance's peak lies {_distance(signal)} epochs from the best epoch in {rows}"
    if signal.num_edges:
        text += f" (no interior peak in {words.plural(signal.num_edges, 'seed')})"
    if controls:
        others = [f"{marker.name}: {_distance(marker)}" for marker in controls]
        text += f"; markers that measure nothing: {', '.join(others)}"
    return f"{text} ({words.plural(signal.distance.n, 'seed')})."


def _distance(marker: Marker) -> str:
    return words.amount(marker.distance)


def baselines(one: Findings) -> str | None:
    """The best cell's lead over each baseline at the heaviest sparsity, and at how many it is
    clear."""
    by_name: dict[str, list[Baseline]] = {}
    for baseline in one.baselines:
        by_name.setdefault(baseline.name, []).append(baseline)
    if not by_name:
        return None
    named = [_lead_over(one, name, found) for name, found in by_name.items()]
    how = "left-out repeats" if one.grid.num_repeats > 1 else "chosen on the same runs: optimistic"
    return f"Best epoch against baselines at the heaviest sparsity ({how}; p without Holm): {'; '.join(named)}."


def _lead_over(one: Findings, name: str, found: Sequence[Baseline]) -> str:
    heaviest = found[-1]
    lead = heaviest.left_out.difference if heaviest.left_out else heaviest.difference
    tested = [b.left_out.p for b in found if b.left_out is not None and b.left_out.p is not None]
    clear = sum(p <= LEVEL for p in tested)
    count = f", p <= .05 at {clear} of {len(tested)} sparsities" if tested else ""
    place = f"epoch {heaviest.epoch}, {_budgets(heaviest)}"
    where = f"{name} ({place}) at {words.removed(heaviest.sparsity)} %"
    return f"{points(one, lead)} over {where}{count}"


def _budgets(one: Baseline) -> str:
    """What baseline and cell are trained in all: a lead over one trained longer is worth more."""
    more = one.num_epochs - one.best_num_epochs
    trained = f"{one.num_epochs} epochs in all"
    if not more:
        return f"{trained}, as many as the cell"
    words_of = f"{abs(more)} {'more' if more > 0 else 'fewer'}"
    return f"{trained}, {words_of} than the cell's {one.best_num_epochs}"
