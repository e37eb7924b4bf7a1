"""Writes the tables of docs/reproduce.md: every figure, its command, its cost, its status.

    python docs/reproduce.py              writes the tables of the page anew
    python docs/reproduce.py --measure    times a step of every network first: step_seconds.csv

Costs are counted from the runs that each form plans. Hours are its training steps times the
seconds of a step on one core, which step_seconds.csv has; a network that is not in it has no hours.
A figure has been run if results/PAPER_SCALE_FORM is there: its results.csv says by how many seeds.
"""

import argparse
import csv
import dataclasses
import functools
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from configs import paper_a, paper_b
from earlyprune_jax import config
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Trunk
from earlyprune_jax.grid.options import usable_cores
from earlyprune_jax.grid.workers import step_seconds
from earlyprune_jax.spec import RunSpec

ROOT = Path(__file__).parent.parent
SECONDS = ROOT / "docs" / "step_seconds.csv"
PAGE = ROOT / "docs" / "reproduce.md"
PAPERS = {"paper_a": paper_a, "paper_b": paper_b}
SCALES = ("full", "short")
NUM_IMAGES = 50_000
"""Training images of CIFAR-10, and of CIFAR-100."""
SMALL = "transformer(feed_forward_width=256, num_heads=4, num_layers=2, width=64)"
TEXT_STEPS = {"transformer": 28_947, SMALL: 212}
"""Network -> training steps an epoch on WMT14's first 1.28 million pairs, on half of Multi30k:
batches of 1,500 tokens, as a study of them says."""
NUM_STEPS, ROUND = 4, 3
"""Steps that are timed at once; significant digits of their seconds."""

Size = tuple[str, int, int]
"""Network, pixels a side (0 = text), batch size: what the time of a step depends on."""


def size(spec: RunSpec) -> Size:
    """Returns what the time of a step of a single setting depends on."""
    pixels = 0 if spec.model.name in TEXT_STEPS else spec.data.image_size or 32
    return spec.model.name, pixels, spec.train.batch_size


def steps_per_epoch(spec: RunSpec) -> int:
    """Counts the training steps of an epoch of a single setting."""
    if spec.model.name in TEXT_STEPS:
        return TEXT_STEPS[spec.model.name]
    return round(NUM_IMAGES * spec.data.train_fraction) // spec.train.batch_size


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a form plans: dense runs, pruned runs, the epochs of all, and steps by size."""

    num_trunks: int
    num_forks: int
    num_epochs: int
    num_steps: dict[Size, int]

    def hours(self, seconds: dict[Size, float]) -> float | None:
        """Returns the hours of all steps on one core; None where a size was not timed."""
        if not set(self.num_steps) <= set(seconds):
            return None
        return sum(seconds[one] * steps for one, steps in self.num_steps.items()) / 3600


def spec_of(paper: str, form: str, scale: str) -> RunSpec:
    """Reads a form at a scale."""
    return config.planned(config.load_file(f"{paper}:{form}", scale))


def cost(spec: RunSpec) -> Cost:
    """Counts what a study plans."""
    runs = [run for run in plan.members(spec) if not isinstance(run, Comparison)]
    num_trunks = sum(isinstance(run, Trunk) for run in runs)
    num_epochs, num_steps = 0, dict[Size, int]()
    for run in runs:
        own = spec.at(run.setting)
        epochs = run.num_epochs(own)
        num_epochs += epochs
        num_steps[size(own)] = num_steps.get(size(own), 0) + epochs * steps_per_epoch(own)
    return Cost(num_trunks, len(runs) - num_trunks, num_epochs, num_steps)


# --- the seconds of a step
# --------------------------------------------------------------------------------------------------


def measured() -> dict[Size, float]:
    """Reads step_seconds.csv."""
    with SECONDS.open() as file:
        rows = list(csv.DictReader(file))
    return {
        (row["network"], int(row["pixels"]), int(row["batch_size"])): float(row["seconds"])
        for row in rows
    }


def sizes() -> list[Size]:
    """Lists every network of images that a figure at full scale or short trains."""
    found = {
        size(spec.at(setting))
        for paper, module in PAPERS.items()
        for form in module.FORMS
        for scale in SCALES
        for spec in [spec_of(paper, form, scale)]
        for setting in spec.settings()
    }
    return sorted((one for one in found if one[1]), key=lambda one: (one[1], one[2], one[0]))


def timed(one: Size) -> float:
    """Times a step of random images on one core of this machine."""
    network, pixels, batch = one
    rng, num = np.random.default_rng(0), batch * NUM_STEPS
    with tempfile.TemporaryDirectory() as folder:
        arrays = {
            f"{kind}_{split}": made
            for split, count in (("train", num), ("test", 20))
            for kind, made in (
                ("x", rng.integers(0, 256, (count, pixels, pixels, 3), np.uint8)),
                ("y", np.arange(count) % 10),
            )
        }
        np.savez(f"{folder}/images.npz", allow_pickle=False, **arrays)
        changes = {
            "data.name": f"npz:{folder}/images.npz",
            "model.name": network,
            "train.batch_size": str(batch),
            "train.eval_batch_size": "20",
        }
        spec = config.resolve(config.load_file("paper_a"), list(changes.items()))
        (seconds,) = step_seconds(spec, usable_cores()[-1:]).values()
    return seconds


def measure() -> None:
    """Times every network and writes step_seconds.csv, keeping what it has of text."""
    kept = {one: seconds for one, seconds in measured().items() if not one[1]}
    for one in sizes():
        kept[one] = float(f"{timed(one):.{ROUND}g}")
        print(*one, kept[one], flush=True)
    made_with = f"{platform.machine()}, jax {version('jax')}"
    with SECONDS.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("network", "pixels", "batch_size", "seconds", "made_with"))
        rows.writerows((*one, seconds, made_with) for one, seconds in kept.items())


# --- the page
# --------------------------------------------------------------------------------------------------
HEADER = (
    *("figure", "command", "dense + pruned runs", "epochs", "hours of a core"),
    *("`short`: epochs", "hours of a core", "status"),
)


def table(paper: str) -> Iterator[str]:
    """Writes a row for each form of a paper."""
    yield _row(HEADER)
    yield _row(["---"] * len(HEADER))
    seconds = measured()
    for form in PAPERS[paper].FORMS:
        full, short = (cost(spec_of(paper, form, scale)) for scale in SCALES)
        cells = (
            _name(form),
            f"`earlyprune run {paper}:{form}`",
            f"{full.num_trunks:,} + {full.num_forks:,}",
            f"{full.num_epochs:,}",
            _hours(full.hours(seconds)),
            f"{short.num_epochs:,}",
            _hours(short.hours(seconds)),
            status(paper, form) if full.num_epochs else "trains nothing",
        )
        yield _row(cells)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(form: str) -> str:
    number = re.fullmatch(r"fig(\d+)([a-z]?)", form)
    return f"{number[1]}{number[2]}" if number else form.replace("_", " ")


def _hours(hours: float | None) -> str:
    if hours is None:
        return "not measured"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def steps_table() -> Iterator[str]:
    """Writes the seconds of a step of every network."""
    yield _row(("network", "pixels", "batch", "seconds of a step"))
    yield _row(["---"] * 4)
    for (network, pixels, batch), seconds in measured().items():
        yield _row((network, str(pixels or "text"), f"{batch:,}", f"{seconds:g}"))


def status(paper: str, form: str) -> str:
    """Says at which scales a form has been run, by how many seeds, and where its tables are."""
    found = []
    for scale, word in (("full", "in full"), ("short", "shrunken")):
        folder = f"{paper}_{scale}_{form}"
        if (ROOT / "results" / folder / "results.csv").exists():
            with (ROOT / "results" / folder / "results.csv").open() as file:
                seeds = {row["trunk_seed"] for row in csv.DictReader(file)}
            many = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
            found.append(f"[{word}, {many}](../results/{folder})")
    return ", ".join(found) or "not run"


def page(text: str) -> str:
    """Writes the tables anew, each between its two marks; the rest of the page stays."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = "".join([before, begin, "\n".join(rows()), "\n", end, after])
    return text


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    **{paper: functools.partial(table, paper) for paper in PAPERS},
    "steps": steps_table,
}


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    flags.add_argument("--measure", action="store_true")
    if flags.parse_args().measure:
        measure()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
