"""The learning rates of a figure's dense runs: paper A's figure 5."""

from pathlib import Path

from earlyprune_jax import records
from earlyprune_jax.analysis import drawing, results

STEM = "learning_rates"


def write(workdir: str | Path, into: str | Path) -> list[Path]:
    """Writes learning_rates.csv, a row per setting and epoch, and figures/learning_rates.

    Args:
        workdir: whose plan.json holds the rates.
        into: where they are written.

    Returns:
        The paths; none where there is no plan of a figure.

    Example:
        >>> write("no/such/workdir", "no/such/workdir")
        []
    """
    planned = records.planned_rates(Path(workdir))
    rows = [
        {"setting": setting, "epoch": epoch, "learning_rate": rate}
        for setting, rates in planned.items()
        for epoch, rate in enumerate(rates, 1)
    ]
    if not rows:
        return []
    figure = drawing.blank(6.4, 4.4)
    axes = figure.subplots()
    for (setting, rates), color in zip(
        planned.items(), drawing.COLORS * len(planned), strict=False
    ):
        axes.plot(range(1, len(rates) + 1), rates, color=color, label=setting or "dense runs")
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate at its start")
    drawing.tidy(axes)
    drawing.head(figure, "Learning rates of the dense runs", "")
    drawing.add_legend(figure)
    table = results.save(Path(into) / f"{STEM}.csv", rows)
    return [table, *drawing.save_all(into, {STEM: figure})]
