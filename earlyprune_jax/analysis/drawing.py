"""What all figures share: colours, files, titles, legends. Matplotlib is imported on use, pyplot
never."""

import contextlib
import contextvars
import dataclasses
import io
import itertools
import math
import textwrap
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax import storage
from earlyprune_jax.analysis.peaks import OTHER_READINGS
from earlyprune_jax.analysis.places import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without yellow and black, then two of Tol's: apart for colour-blind
# readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#882255")
GREYS = ("#404040", "#767676")
MARKERS = "os^DvPX<"
DASHES = ("-", "--", "-.", ":")
AS_GOOD = "not clearly worse than the best (95 %)"
"""What a shading of fork epochs means: see `best_epoch.Ranking`."""


@dataclasses.dataclass(frozen=True)
class Style:
    """A curve's colour (hexadecimal), marker and dashes, in Matplotlib's words."""

    color: str
    marker: str
    dashes: str = "-"

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of Matplotlib's plots."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.dashes}


SIGNALS = {
    "fisher_trace": Style("#882255", "D", "-"),
    "kl_uniform_bits": Style("#E69F00", "v", "--"),
    "random_distance": Style("#117733", "h", "-."),
}
"""How a signal looks in every figure: apart for colour-blind readers, in print by lightness and
dashes, and unlike the first curves of forks."""
OTHERS = (Style("#332288", "p", ":"), Style("#44AA99", "P", "--"), Style("#404040", "X", "-"))
"""Those of signals that have no style of their own, in the order of a figure."""


def signal_styles(names: Sequence[str]) -> dict[str, Style]:
    """Gives each signal of a figure its style.

    Args:
        names: columns of signals.csv.

    Returns:
        The styles; another reading of a signal, such as KL_uniform in nats, looks like the signal.

    Example:
        >>> signal_styles(["kl_uniform_nats"])["kl_uniform_nats"] == SIGNALS["kl_uniform_bits"]
        True
    """
    others = itertools.cycle(OTHERS)
    known = {name: SIGNALS.get(OTHER_READINGS.get(name, name)) for name in names}
    return {name: style or next(others) for name, style in known.items()}


def styles(places: Iterable[Place]) -> dict[Place, Style]:
    """Gives each curve a style; no two alike up to 8 curves, or 4 kinds of forks at any number of
    sparsities.

    Of more than 8 curves the colour tells the sparsity, from dark (little removed) to light, and
    the dashes all else: that many unordered colours could not be told apart.

    Args:
        places: of curves, within one setting.

    Example:
        >>> places = [Place((("criterion", "magnitude"), ("sparsity", s / 10))) for s in range(9)]
        >>> styles(places[:2])[places[1]]
        Style(color='#D55E00', marker='s', dashes='-')
        >>> len({style.color for style in styles(places).values()})
        9
    """
    places = list(dict.fromkeys(places))
    if len(places) <= len(COLORS):
        return {place: Style(COLORS[index], MARKERS[index]) for index, place in enumerate(places)}
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    sparsities = sorted({place["sparsity"] for place in places})
    kinds = sorted({place.without("sparsity") for place in places})
    styles = {}
    for place in places:
        rank = sparsities.index(place["sparsity"])
        # Viridis grows lighter in grey too; its palest end is left out.
        color = to_hex(colormaps["viridis"](0.88 * rank / max(len(sparsities) - 1, 1)))
        dashes = DASHES[kinds.index(place.without("sparsity")) % len(DASHES)]
        styles[place] = Style(color, MARKERS[rank % len(MARKERS)], dashes)
    return styles


def blank(width: float, height: float) -> "Figure":
    """Makes a figure without pyplot's state, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    count: int, width: float, height: float, *, max_columns: int = 3
) -> tuple["Figure", Any]:
    """Makes a figure of equal panels, row by row.

    Args:
        count: Number of panels.
        width: Of one panel, inches.
        height: Of one panel, inches.
        max_columns: Most panels side by side.

    Returns:
        The figure, and the panels [count].
    """
    num_columns = min(count, max_columns)
    num_rows = math.ceil(count / num_columns)
    figure = blank(1.0 + width * num_columns, 1.5 + height * num_rows)
    every = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes in every[count:]:
        axes.set_axis_off()
    return figure, every[:count]


def tidy(axes: "Axes") -> None:
    """Leaves of the frame the two sides with numbers, and draws faint lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def stem(name: str, place: Place, axes: Container[str] | None = None) -> str:
    """Names a figure of one place among several.

    Args:
        name: of the figure.
        place: what it shows.
        axes: those on which the places differ; None for all.

    Returns:
        The name with the place's values at its end.

    Example:
        >>> setting = Place((("model", "resnet8"), ("train_fraction", 1.0), ("schedule", "step")))
        >>> stem("rules", setting), stem("rules", setting, ["model"]), stem("rules", setting, [])
        ('rules_resnet8_1_step', 'rules_resnet8', 'rules')
    """
    return "_".join(filter(None, (name, place.slug(axes))))


def save_all(
    workdir: str | Path, pictures: Mapping[str, "Figure | None"], *, possible: Iterable[str] = ()
) -> list[Path]:
    """Writes figures/STEM.png and .svg, each in one step; the same figure gives the same bytes.

    Args:
        workdir: Where `figures` lies or is made, if there is anything to write.
        pictures: A figure per stem; None is not drawn.
        possible: What earlier calls may have drawn of the same runs; what this one has not is
            removed, if it draws anything: it would be taken for a picture of all.

    Returns:
        The paths written.

    Example:
        >>> save_all("no/such/workdir", {})
        []
    """
    import matplotlib

    directory, paths = Path(workdir) / "figures", []
    # Without a salt the ids in the SVG, and without a date its bytes, would differ from call to
    # call.
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}
    for name, figure in pictures.items():
        if figure is None:
            continue
        storage.make_directory(directory)
        for extension, removed in metadata.items():
            image = io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": "earlyprune_jax", "svg.fonttype": "none"}):
                figure.savefig(image, format=extension, dpi=150, metadata=removed)
            paths.append(directory / f"{name}.{extension}")
            storage.replace_file(paths[-1], image.getvalue())
            # The layout of the first file serves the second: computing it is half of the time.
            figure.set_layout_engine("none")
    for stem in set(possible) - {path.stem for path in paths} if paths else ():
        for extension in metadata:
            storage.remove(directory / f"{stem}.{extension}")
    return paths


_NOTE: contextvars.ContextVar[str] = contextvars.ContextVar("note", default="")


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Adds a line to the head of every figure drawn inside; none if it is empty."""
    token = _NOTE.set(note)
    try:
        yield
    finally:
        _NOTE.reset(token)


def head(figure: "Figure", title: str, about: str, *, fontsize: float = 9.5) -> None:
    """Writes a title and, below it, what is shown. The figure grows by the lines of `noted`.

    Args:
        figure: Whose size decides where lines are broken.
        title: The first line.
        about: Further lines, broken where they are too long.
        fontsize: Of all lines, points.
    """
    width = _line_length(figure)
    lines = [line for part in about.split("\n") for line in textwrap.wrap(part, width)]
    noted_lines = textwrap.wrap(_NOTE.get(), width)
    text = figure.suptitle("\n".join([title, *lines, *noted_lines]), x=0.01, ha="left")
    text.set_fontsize(fontsize)
    # A line is 1.2 times as high as its letters.
    figure.set_figheight(figure.get_figheight() + 1.2 * fontsize / 72 * len(noted_lines))


def _line_length(figure: "Figure") -> int:
    """Tells how many characters of small print fit beside one another."""
    return int(figure.get_size_inches()[0] * 13.5)


def labelled(every: Iterable["Axes"]) -> list[Any]:
    """Gives handles for a legend of what has a label on some axes, one per label; curves with
    whiskers first."""
    handles: dict[str, Any] = {}
    for axes in every:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # Matplotlib lists them last; they are containers, which are tuples.
    return sorted(handles.values(), key=lambda handle: not isinstance(handle, tuple))


def add_legend(figure: "Figure", handles: Sequence[Any] | None = None, *, note: str = "") -> None:
    """Adds a legend below everything, in as few lines as fit.

    Args:
        figure: Which is wide enough, or has a narrow legend.
        handles: Of the legend; None for all that has a label.
        note: A sentence above them, broken where it is too long.
    """
    handles = labelled(figure.axes) if handles is None else handles
    # A key takes as much room as seven characters, and an inch holds fifteen.
    longest = max((len(handle.get_label()) + 7 for handle in handles), default=1)
    num_columns = max(1, min(len(handles), int(15 * figure.get_size_inches()[0] / longest)))
    style = {"frameon": False, "fontsize": 8.5, "handlelength": 2.6}
    style |= {"title": textwrap.fill(note, _line_length(figure)), "title_fontsize": 8.5}
    figure.legend(handles=list(handles), loc="outside lower center", ncols=num_columns, **style)


def epoch_axis(axes: "Axes", num_epochs: int) -> None:
    """Lays the axis of epochs from 0 to T."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.02 * num_epochs, 1.02 * num_epochs)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 2.5, 5, 10], integer=True))


def plus_minus(text: str) -> str:
    """Writes +- as a figure can, in one character."""
    return text.replace("+-", "±")
