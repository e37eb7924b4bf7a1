"""What a notebook shows of a workdir: the summary, its figures, its tables; and of a run its newest
line.

A notebook asks an object for `_repr_mimebundle_`. IPython is imported only inside of a notebook.
"""

import base64
import collections
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from earlyprune_jax.analysis import results

MAIN = "_vs_"
"""Figures with this in their name are shown at once; the others, and all tables, on a click."""
MAX_FIGURES, MAX_ROWS, MAX_LINES = 8, 40, 200
TEXT_STYLE = "font-family: monospace; font-size: 13px; line-height: 1.3; white-space: pre-wrap"


class Report(str):
    """Holds a summary: text everywhere, and in a notebook the figures and tables too.

    A cell that ends with it shows them, and so does IPython's `display`: first the verdict, then
    the main figures, all else on a click. They are read from the workdir at that moment.

    Args:
        text: The summary.
        workdir: Where `figures` and the .csv files lie.
        verdict: The beginning of the text that is shown at once; all of it if empty.

    Example:
        >>> report = Report("Runs: none yet.", "no/such/workdir")
        >>> print(report)
        Runs: none yet.
        >>> sorted(report._repr_mimebundle_())
        ['text/html', 'text/plain']
    """

    workdir: Path
    verdict: str

    def __new__(cls, text: str = "", workdir: str | Path = ".", verdict: str = "") -> Self:
        """Makes the text, which is what `str` is made of."""
        report = super().__new__(cls, text)
        report.workdir, report.verdict = Path(workdir), verdict or text
        return report

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        rest = self.removeprefix(self.verdict).strip("\n")
        main, others = _figures(self.workdir)
        summary = [_folded("The whole summary: all forks, signals and rules", _text(rest))]
        parts = (
            _text(self.verdict),
            *main,
            *summary * bool(rest),
            *others,
            *_tables(self.workdir),
        )
        return {"text/plain": str(self), "text/html": "\n".join(parts)}


class NewestLine(io.StringIO):
    """A text stream of which a notebook shows the newest line, and the earlier ones on a click.

    A notebook keeps every line of its standard output, so that a long run pushes its result off the
    page.
    """

    def __init__(self):
        super().__init__()
        self._lines: collections.deque[str] = collections.deque(maxlen=MAX_LINES)
        self._shown: Any = None

    def write(self, text: str) -> int:
        """Adds whole lines, and shows the last of them in place of what was shown."""
        from IPython.display import display

        lines = [line for line in text.splitlines() if line.strip()]
        self._lines.extend(lines)
        if lines and self._shown:
            self._shown.update(self._bundle(), raw=True)
        elif lines:
            self._shown = display(self._bundle(), raw=True, display_id=True)
        return len(text)

    def _bundle(self) -> dict[str, str]:
        *earlier, newest = self._lines
        page = _folded(newest, _text("\n".join(earlier))) if earlier else _text(newest)
        return {"text/plain": "\n".join(self._lines), "text/html": page}


def _text(text: str) -> str:
    return f'<pre style="{TEXT_STYLE}">{html.escape(text)}</pre>'


def _figures(workdir: Path) -> tuple[list[str], list[str]]:
    """Returns the main figures, and the others folded."""
    paths = sorted(
        workdir.glob("figures/[!.]*.png"), key=lambda path: (MAIN not in path.stem, path.stem)
    )
    main, others = [], []
    for path in paths[:MAX_FIGURES]:
        data = base64.b64encode(path.read_bytes()).decode()
        style = "max-width: 100%; width: 800px; background: white"
        image = f'<img alt="{path.stem}" style="{style}" src="data:image/png;base64,{data}">'
        if MAIN in path.stem:
            main.append(image)
        else:
            others.append(_folded(f"figures/{path.name}", image))
    return main, others


def _tables(workdir: Path) -> Iterator[str]:
    """Yields the tables, folded; columns of one value come last."""
    import pandas as pd

    for path in filter(Path.is_file, (workdir / name for name in results.TABLES)):
        table = pd.read_csv(path).dropna(axis="columns", how="all")
        is_constant = table.nunique() < 2
        text = table[sorted(table, key=is_constant.__getitem__)].to_html(
            index=False, max_rows=MAX_ROWS, na_rep="", float_format="{:.4g}".format, border=0
        )
        head, _, body = text.partition("</thead>")
        narrow = head.replace("_", "_<wbr>")  # Headings may break there.
        size = f"{len(table)} rows × {len(table.columns)} columns"
        yield _folded(f"{path.name} ({size})", f"{narrow}</thead>{body}")


def _folded(title: str, content: str) -> str:
    return (
        f'<details><summary>{html.escape(title)}</summary><div style="overflow-x: auto">{content}'
        "</div></details>"
    )
