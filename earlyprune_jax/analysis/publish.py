"""Everything an experiment leaves to be looked at, written from one reading of its workdir.

Nothing here imports pandas or Matplotlib before something is written.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earlyprune_jax.analysis.runs import Runs

PACKAGE = "earlyprune_jax.analysis"


@dataclasses.dataclass(frozen=True)
class Writer:
    """A function that writes files into a workdir and returns their paths; no path where it has no
    data.

    Attributes:
        function: `module:name` within this package, called with the workdir and `runs`.
        tables: the files that it may write.
        figures: how the names of the figures that it may write begin, in the folder `figures`.
    """

    function: str
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()

    def load(self) -> "Callable[..., list[Path]]":
        """Imports the function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)


RESULTS = Writer("results:write_tables", ("results.csv", "signals.csv"))
RULES = Writer(
    "rules:write", ("rules.csv", "rule_choices.csv", "signal_correlations.csv"), ("rules",)
)
MAIN_FIGURE = Writer("figures:draw_main", figures=("*_vs_fork_epoch",))
REGIME_TABLES = ("regimes.csv", "regime_cells.csv", "regime_alignment.csv", "regime_baselines.csv")
COMPARISONS = "comparisons.csv"
REGIMES = Writer("regimes:write", (*REGIME_TABLES, COMPARISONS), ("regimes", "training_curve"))
WRITERS = (RESULTS, RULES, MAIN_FIGURE, REGIMES)
"""In the order of their files. Another kind of table or figure is registered here, and nowhere
else."""


def publish(workdir: str | Path, *, runs: "Runs | None" = None) -> list[Path]:
    """Writes all tables and figures of a workdir, each file replaced in one step.

    Args:
        workdir: An experiment's directory, finished or not.
        runs: Of `results.read_runs`, where they have been read already: for `summary.summarize`
            too.

    Returns:
        The paths written.

    Raises:
        InvalidInput: A file of the workdir is damaged.
        OSError: The workdir cannot be written.

    Example:
        >>> import tempfile
        >>> [path.name for path in publish(tempfile.mkdtemp())]
        ['results.csv', 'signals.csv']
    """
    from earlyprune_jax.analysis.runs import read_runs

    runs = read_runs(workdir) if runs is None else runs
    return [path for writer in WRITERS for path in writer.load()(workdir, runs=runs)]


def tables() -> tuple[str, ...]:
    """Lists the tables that `publish` may write, in its order.

    Example:
        >>> tables()[:2]
        ('results.csv', 'signals.csv')
    """
    return tuple(name for writer in WRITERS for name in writer.tables)


def file_names() -> tuple[str, ...]:
    """Lists what `publish` may write into a workdir: the tables, and the folder of the figures.

    Example:
        >>> file_names()[-1]
        'figures'
    """
    return (*tables(), "figures")


def figure_stems(workdir: str | Path) -> Sequence[str]:
    """Lists how the names of the figures begin that are in a workdir, the main figure first.

    Example:
        >>> figure_stems("no/such/workdir")
        ['rules', 'regimes', 'training_curve']
    """
    stems = [stem for writer in WRITERS for stem in writer.figures]
    folder, ends = Path(workdir) / "figures", [stem.lstrip("*") for stem in stems if "*" in stem]
    main = {
        path.name[: path.name.index(end) + len(end)]
        for end in ends
        for path in folder.glob(f"*{end}*")
        if not path.name.startswith(".")
    }
    return [*sorted(main), *(stem for stem in stems if "*" not in stem)]
