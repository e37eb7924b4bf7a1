"""Writes the notebooks of this folder, without outputs, from the .py files beside them.

python colabs/generate.py
"""

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SOURCES = sorted(set(FOLDER.glob("*.py")) - {FOLDER / Path(__file__).name})


def notebook(source: Path) -> str:
    """Makes the text of a notebook: the same for the same source, ids of cells included.

    Args:
        source: A .py file in jupytext's percent format.

    Returns:
        The notebook as JSON.
    """
    made = jupytext.read(source)
    # Jupytext notes its own version here, and draws ids at random.
    made.metadata.pop("jupytext", None)
    for number, cell in enumerate(made.cells):
        cell.id = f"{source.stem}-{number}"
    return nbformat.writes(made) + "\n"


if __name__ == "__main__":
    for source in SOURCES:
        source.with_suffix(".ipynb").write_text(notebook(source), encoding="utf-8")
