"""What the grids show about the two regimes, in a few sentences: for the summary and the terminal."""

from collections.abc import Iterator, Sequence

from earlyprune_jax.analysis.regimes import across_text, best_epochs, convergence, sentences, words
from earlyprune_jax.analysis.regimes.findings import Findings

MAX_BLOCKS = 3
"""More grids get a line each."""
MAX_LINES = 12
TEST = (
    "Test: the early epoch is chosen without the repeat it is measured on, the converged one is the best "
    "of all; one-sided, 5 % after Holm over a grid's sparsities, at least "
    f"{best_epochs.MIN_REPEATS} repeats."
)
ONE_TRUNK = "One trunk seed: the spread is that of fine-tuning alone, not that of other trunks."
CONVERGED = f"Converged: {convergence.DEFINITION}."


def paragraphs(findings: Sequence[Findings]) -> list[str]:
    """The text: a headed block a grid (a line each where there are many), then what holds across grids.

    Args:
        findings: of `findings.analyse`.

    Returns:
        Lines, not wrapped; two spaces before what belongs to a heading. Empty without grids.

    Example:
        >>> paragraphs([])
        []
    """
    lines = list(_blocks(findings) if len(findings) <= MAX_BLOCKS else _compact(findings))
    notes = {
        CONVERGED: any(one.convergence for one in findings),
        TEST: any(one.line.num_tested for one in findings),
    }
    return [*lines, *(note for note, needed in notes.items() if needed), *across_text.lines(findings)]


def _blocks(findings: Sequence[Findings]) -> Iterator[str]:
    for one in findings:
        yield f"Regimes: {words.grid_label(one.grid)}; {_size(one)}, {words.chosen(one.grid)}."
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
    """A line a grid: the transition lines by accuracy and by similarity."""
    grids = [one.grid for one in findings]
    axes = words.varying(grids)
    shared = words.grid_label(grids[0], [axis for axis in grids[0].named if axis not in axes])
    yield f"Regimes of {len(findings)} grids{f' ({shared})' if shared else ''}; details in regimes.csv:"
    for one in findings[:MAX_LINES]:
        alike = one.similarity.line if one.similarity else None
        text = f"  {words.grid_label(one.grid, axes)}; {_size(one)}: {sentences.line(one)}"
        yield text + ("." if alike is None else f"; similarity alone: from {words.removed(alike)} % on.")
    if len(findings) > MAX_LINES:
        yield f"  and {words.plural(len(findings) - MAX_LINES, 'more grid')}."
    alone = [grid for grid in grids if grid.repeat_kind == "replicate"]
    if alone:
        which = "" if len(alone) == len(grids) else f"In {len(alone)} of these grids: "
        yield f"  {which}{ONE_TRUNK}"


def _size(one: Findings) -> str:
    grid = one.grid
    size = f"{len(grid.sparsities)} sparsities x {len(grid.epochs)} fork epochs"
    return f"{size}, {words.repeats(grid)}"
