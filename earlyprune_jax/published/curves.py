"""The published numbers as frozen values. The package's docstring has their source and oddities."""

import csv
import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from earlyprune_jax.triggers import History

SIGNALS = {"trF_conv_weights": "fisher_trace", "KL_uniform_bits": "kl_uniform_bits"}
"""A signal's name in the file -> its column, as in signals.csv."""
NUM_EPOCHS = 200


@dataclasses.dataclass(frozen=True)
class DenseRun:
    """One published dense run, with the signal that was measured along it.

    Attributes:
        dataset: cifar10 or cifar100.
        network: such as resnet18.
        schedule: of the learning rate: exponential, cosine or linear.
        weight_decay: its coefficient.
        num_seeds: over how many seeds the published curves are means.
        accuracy: the best test accuracy of the run, in %; None where the paper shows none.
        signal: the column fisher_trace (over convolution kernels) or kl_uniform_bits; empty where
            the paper shows none.
        epochs: at which the signal was measured.
        values: of the signal.
        num_epochs: length of the run.
    """

    dataset: str
    network: str
    schedule: str
    weight_decay: float
    num_seeds: int
    accuracy: float | None = None
    signal: str = ""
    epochs: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    values: tuple[float, ...] = dataclasses.field(default=(), repr=False)
    num_epochs: int = NUM_EPOCHS

    @property
    def history(self) -> History:
        """The signal as triggers see it, from epoch 1 on."""
        return [
            {"epoch": epoch, "num_epochs": self.num_epochs, self.signal: value}
            for epoch, value in zip(self.epochs, self.values, strict=True)
            if epoch
        ]

    @property
    def peak_epoch(self) -> int | None:
        """The epoch at which the signal is largest; None without one."""
        pairs = zip(self.values, self.epochs, strict=True)
        return max(pairs, key=lambda pair: pair[0], default=(0.0, None))[1]


@dataclasses.dataclass(frozen=True)
class AccuracyCurve:
    """The accuracy of the pruned runs of one cell, by the epoch of pruning.

    Attributes:
        panels: the figures that show it, such as 3, 4b and 6a.
        dense: the run it was forked from.
        criterion: magnitude or fisher.
        scope: global or local.
        sparsity: the fraction removed.
        fork_epochs: ascending.
        accuracies: the best test accuracy of each pruned run, in %.
    """

    panels: tuple[str, ...]
    dense: DenseRun
    criterion: str
    scope: str
    sparsity: float
    fork_epochs: tuple[int, ...]
    accuracies: tuple[float, ...]


@functools.cache
def accuracy_curves(signal: str | None = None) -> tuple[AccuracyCurve, ...]:
    """Lists the distinct accuracy curves of paper A, in the order of the figures.

    Curves of one dense run that are the same point for point count once.

    Args:
        signal: only of dense runs with this column, fisher_trace or kl_uniform_bits; None = all.

    Returns:
        34 curves, 21 with fisher_trace and 3 with kl_uniform_bits.

    Example:
        >>> curve = accuracy_curves("fisher_trace")[2]
        >>> curve.panels, curve.sparsity, curve.dense.peak_epoch
        (('3',), 0.7, 76)
    """
    if signal is not None:
        return tuple(curve for curve in accuracy_curves() if curve.dense.signal == signal)
    distinct: dict[Any, AccuracyCurve] = {}
    runs: dict[Any, DenseRun] = {}
    for curve in _published():
        # The same run in another panel differs from its first reading by 0.001.
        key = dataclasses.replace(curve.dense, epochs=(), values=())
        dense = runs.setdefault(key, curve.dense)
        first = distinct.setdefault((key, curve.accuracies), curve)
        panels = dict.fromkeys((*first.panels, *curve.panels))
        distinct[key, curve.accuracies] = dataclasses.replace(
            first, panels=tuple(panels), dense=dense
        )
    return tuple(distinct.values())


def dense_runs(signal: str | None = None) -> tuple[DenseRun, ...]:
    """Lists the dense runs of `accuracy_curves`, each once.

    Args:
        signal: as there.

    Example:
        >>> [(run.schedule, run.peak_epoch) for run in dense_runs("kl_uniform_bits")]
        [('exponential', 62), ('cosine', 154), ('linear', 155)]
    """
    return tuple(dict.fromkeys(curve.dense for curve in accuracy_curves(signal)))


def three_regime_errors() -> dict[float, dict[int, float]]:
    """Reads the test errors of the three-regime model.

    Returns:
        density, the fraction kept -> epoch of dense training -> test error, in %.

    Example:
        >>> errors = three_regime_errors()
        >>> min(errors[0.05], key=errors[0.05].get)
        60
    """
    rows = list(csv.DictReader(_text("three_regime_test_error.csv").splitlines()))
    return {
        int(name.removeprefix("density_")) / 100: {
            int(row["train_epoch"]): round(100 * float(row[name]), 2) for row in rows
        }
        for name in rows[0]
        if name.startswith("density_")
    }


@functools.cache
def three_regime_curves() -> tuple[AccuracyCurve, ...]:
    """Lists the rows of the three-regime model's grid as curves of accuracy, sparsest last.

    Example:
        >>> curve = three_regime_curves()[-1]
        >>> curve.sparsity, curve.dense.network, len(curve.fork_epochs)
        (0.95, 'preresnet20', 16)
    """
    dense = DenseRun("cifar10", "preresnet20", "step", 1e-4, num_seeds=3, num_epochs=160)
    return tuple(
        AccuracyCurve(
            panels=("follow_up",),
            dense=dense,
            criterion="magnitude",
            scope="uniform",
            sparsity=round(1 - density, 2),
            fork_epochs=tuple(errors),
            accuracies=tuple(round(100 - error, 2) for error in errors.values()),
        )
        for density, errors in sorted(three_regime_errors().items(), reverse=True)
    )


def _text(name: str) -> str:
    return resources.files("earlyprune_jax.published").joinpath(name).read_text(encoding="utf-8")


def _published() -> Iterator[AccuracyCurve]:
    """Yields every curve of every panel."""
    for name, panel in json.loads(_text("paper_a_figures.json")).items():
        for label, accuracies in panel["acc"].items():
            yield AccuracyCurve(
                panels=(name.partition("_")[0].removeprefix("fig"),),
                dense=_dense_run(name, label, panel),
                criterion="fisher" if "fisher" in name else "magnitude",
                scope="local" if "local" in name else "global",
                sparsity=int(label[:-1]) / 100 if label.endswith("%") else 0.8,
                fork_epochs=tuple(panel["prune_epochs"]),
                accuracies=tuple(accuracies),
            )


def _dense_run(name: str, label: str, panel: Mapping[str, Any]) -> DenseRun:
    """Reads off a panel's name, such as fig12a_wd5e-3_local80, what sets its dense run apart."""
    decay = re.search(r"wd(5e-\d)", name)
    schedules = ("cosine", "linear")
    metric = panel.get("metric", {"name": None, "epoch": (), "value": ()})
    return DenseRun(
        dataset="cifar100" if "c100" in name else "cifar10",
        network=label.lower() if label.startswith("ResNet") else "resnet18",
        schedule=next((word for word in schedules if word in name), "exponential"),
        weight_decay=float(decay[1]) if decay else 5e-4,
        num_seeds=3 if "3seeds" in name else 1,
        accuracy=panel.get("baseline_best_top1"),
        signal=SIGNALS.get(metric["name"], ""),
        epochs=tuple(metric["epoch"]),
        values=tuple(metric["value"]),
    )
