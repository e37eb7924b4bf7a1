"""What the grids show about the two regimes, in a few sentences: for the summary and the
terminal."""

from collections.abc import Iterator, Sequence

from earlyprune_jax.analysis import words
from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.lead import MIN_REPEATS
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.regimes import across_text, convergence, sentences
from earlyprune_jax.analysis.regimes.findings import Findings

MAX_BLOCKS = 3
"""More grids get a line each."""
MAX_LINES = 12
TEST = (
    "Test: the early epoch is chosen without the repeat it is measured on, the converged one is the best "
    "of all; one-sided, 5 % after Holm over a grid's sparsities, at least "
    f"{MIN_REPEATS} repeats."
)
ONE_TRUNK = "One trunk seed: the spread is that of fine-tuning alone, not that of other trunks."


def paragraphs(findings: Sequence[Findings]) -> list[str]:
    """Writes a headed block per grid (a line each where there are many), then what holds across
    grids.

    Args:
        findings: of `findings.analyse`.

    Returns:
        Lines, not wrapped; two spaces before what belongs to a heading. Empty without grids.

    Example:
        >>> paragraphs([])
        []
    """
    lines = list(_blocks(findings) if len(findings) <= MAX_BLOCKS else _compact(findings))
    converged = [
        f"Converged: {convergence.definition(one.runs)}." for one in findings if one.convergence
    ]
    tested = [TEST for one in findings if one.line.num_tested]
    return [*lines, *dict.fromkeys(converged), *dict.fromkeys(tested), *across_text.lines(findings)]


def _blocks(findings: Sequence[Findings]) -> Iterator[str]:
    for one in findings:
        yield f"Regimes: {words.label(one.grid.place)}; {_size(one)}, {chosen(one.grid)}."
        for sentence in _sentences(one):
            if sentence:
                yield f"  {sentence}"


def _sentences(one: Findings) -> Iterator[str | None]:
    if one.grid.repeat_kind == "replicate":
        yield ONE_TRUNK
    yield sentences.convergence(one)
    yield sentences.best(one.rows)
    yield sentences.regime(one)
    yield sentences.similarity(one)
    yield sentences.alignment(one)
    yield sentences.baselines(one)
    if num_failed := int(one.grid.num_failed.sum()):
        yield f"{words.plural(num_failed, 'run')} diverged or failed and left out of these numbers."


def _compact(findings: Sequence[Findings]) -> Iterator[str]:
    """A line per grid: the transition lines by the metric and by similarity."""
    grids = [one.grid for one in findings]
    places = [grid.place for grid in grids]
    axes, same = varying(places), words.label(shared(places))
    yield f"Regimes of {len(findings)} grids{f' ({same})' if same else ''}; details in regimes.csv:"
    for one in findings[:MAX_LINES]:
        alike = one.similarity.line if one.similarity else None
        text = f"  {words.label(one.grid.place, axes)}; {_size(one)}: {sentences.line(one)}"
        yield text + (
            "." if alike is None else f"; similarity alone: from {words.removed(alike)} % on."
        )
    if len(findings) > MAX_LINES:
        yield f"  and {words.plural(len(findings) - MAX_LINES, 'more grid')}."
    alone = [grid for grid in grids if grid.repeat_kind == "replicate"]
    if alone:
        which = "" if len(alone) == len(grids) else f"In {len(alone)} of these grids: "
        yield f"  {which}{ONE_TRUNK}"


def _size(one: Findings) -> str:
    grid = one.grid
    size = f"{len(grid.sparsities)} sparsities x {len(grid.epochs)} fork epochs"
    return f"{size}, {repeats(grid)}"


def repeats(grid: CellGrid) -> str:
    """Says on how much a grid rests: seeds and replicates."""
    seeds = words.plural(len(grid.seeds), "seed")
    more = f" x {words.plural(grid.num_replicates, 'replicate')}" if grid.num_replicates > 1 else ""
    return f"{seeds}{more}"


def chosen(grid: CellGrid) -> str:
    """Says what best epochs were chosen on."""
    note = "" if grid.split == "validation" else " (no validation split)"
    return f"chosen on {words.named(grid.metric, grid.split)}{note}"
