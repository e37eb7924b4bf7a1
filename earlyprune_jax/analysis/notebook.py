"""What a notebook shows of a workdir: the summary, its figures, its tables.

A notebook asks an object for `_repr_mimebundle_`, so nothing here imports IPython.
"""

import base64
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from earlyprune_jax.analysis import results

MAIN = "_vs_"
"""Figures with this in their name are shown at once; the others, and all tables, on a click."""
MAX_FIGURES, MAX_ROWS = 8, 40
TEXT_STYLE = "font-family: monospace; font-size: 13px; line-height: 1.3; white-space: pre-wrap"


class Report(str):
    """Holds a summary: text everywhere, and in a notebook the figures and tables too.

    A cell that ends with it shows them, and so does IPython's `display`. They are read from the
    workdir at that moment.

    Args:
        text: The summary.
        workdir: Where `figures` and the .csv files lie.

    Example:
        >>> report = Report("Runs: none yet.", "no/such/workdir")
        >>> print(report)
        Runs: none yet.
        >>> sorted(report._repr_mimebundle_())
        ['text/html', 'text/plain']
    """

    workdir: Path

    def __new__(cls, text: str = "", workdir: str | Path = ".") -> Self:
        """Makes the text, which is what `str` is made of."""
        report = super().__new__(cls, text)
        report.workdir = Path(workdir)
        return report

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        text = f'<pre style="{TEXT_STYLE}">{html.escape(self)}</pre>'
        parts = (text, *_figures(self.workdir), *_tables(self.workdir))
        return {"text/plain": str(self), "text/html": "\n".join(parts)}


def _figures(workdir: Path) -> Iterator[str]:
    def key(path: Path) -> tuple[bool, str]:
        return MAIN not in path.stem, path.stem

    paths = sorted(workdir.glob("figures/[!.]*.png"), key=key)
    for path in paths[:MAX_FIGURES]:
        data = base64.b64encode(path.read_bytes()).decode()
        style = "max-width: 100%; width: 800px; background: white"
        image = f'<img alt="{path.stem}" style="{style}" src="data:image/png;base64,{data}">'
        yield image if MAIN in path.stem else _folded(path.stem, image)


def _tables(workdir: Path) -> Iterator[str]:
    import pandas as pd

    for path in filter(Path.is_file, (workdir / name for name in results.TABLES)):
        table = pd.read_csv(path).dropna(axis="columns", how="all")
        text = table.to_html(
            index=False, max_rows=MAX_ROWS, na_rep="", float_format="{:.4g}".format, border=0
        )
        size = f"{len(table)} rows × {len(table.columns)} columns"
        yield _folded(f"{path.name} ({size})", text)


def _folded(title: str, content: str) -> str:
    return (
        f'<details><summary>{html.escape(title)}</summary><div style="overflow-x: auto">{content}'
        "</div></details>"
    )
