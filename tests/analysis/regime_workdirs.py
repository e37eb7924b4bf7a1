"""Hand-made grids of forks: an array of accuracies becomes the files an experiment leaves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import workdirs

AXES = {
    "model": "preresnet20",
    "train_fraction": 1.0,
    "schedule": "step",
    "criterion": "magnitude",
    "scope": "uniform",
    "retraining": "constant",
}
SETTING = ("model", "train_fraction", "schedule")

# Test error of PreResNet-20 on CIFAR-10 by dense-training epoch (10, 20, ... 160) and density: the
# published heat map of "A Three-regime Model of Network Pruning" (ICML 2023), +-0.1 %.
PUBLISHED_DENSITIES = (0.05, 0.06, 0.07, 0.08, 0.10, 0.14, 0.20, 0.40, 0.80)
PUBLISHED_EPOCHS = tuple(range(10, 170, 10))
_PUBLISHED = """
.1568 .1474 .1419 .1361 .1298 .1189 .1091 .0962 .0821
.1517 .1408 .1352 .1286 .1239 .1126 .1055 .0931 .0809
.1493 .1399 .1317 .1267 .1177 .1051 .1001 .0900 .0809
.1481 .1372 .1279 .1227 .1142 .1020 .0950 .0876 .0806
.1474 .1352 .1255 .1204 .1118 .1020 .0947 .0853 .0794
.1458 .1329 .1263 .1180 .1098 .0997 .0915 .0841 .0782
.1486 .1333 .1251 .1180 .1083 .0970 .0907 .0837 .0778
.1470 .1325 .1227 .1154 .1086 .0962 .0903 .0821 .0770
.1587 .1423 .1263 .1180 .1095 .0970 .0891 .0813 .0770
.1688 .1509 .1333 .1212 .1098 .0982 .0903 .0809 .0770
.1709 .1540 .1403 .1286 .1102 .0993 .0907 .0806 .0762
.1744 .1615 .1474 .1368 .1130 .0977 .0900 .0806 .0774
.1751 .1650 .1513 .1408 .1145 .1008 .0900 .0806 .0774
.1747 .1641 .1505 .1419 .1196 .1013 .0891 .0806 .0766
.1740 .1610 .1513 .1411 .1185 .1013 .0900 .0806 .0762
.1744 .1630 .1556 .1434 .1185 .1013 .0907 .0806 .0770
"""
PUBLISHED_ERROR = np.array([line.split() for line in _PUBLISHED.strip().splitlines()], dtype=float)


def published(noise: float = 0.0, seeds: int = 1) -> tuple[tuple[float, ...], np.ndarray]:
    """Sparsities, ascending, and accuracies [S, E, seeds, 1]; noise is ours, the publication gives
    means."""
    accuracy = 1 - PUBLISHED_ERROR.T[::-1]
    drawn = np.random.default_rng(3).normal(size=(*accuracy.shape, seeds)) * noise
    sparsities = tuple(round(1 - density, 2) for density in PUBLISHED_DENSITIES[::-1])
    return sparsities, (accuracy[..., None] + drawn)[..., None]


def step_trunk(num_epochs: int = 160, drop: int = 80) -> list[dict[str, Any]]:
    """Train loss and accuracy that settle, and fall once more over ten epochs when the rate
    drops."""
    records = []
    for epoch in range(1, num_epochs + 1):
        before = 0.25 + 1.5 * 0.9 ** (epoch - 1)
        after = 0.08 + 0.16 * 0.85 ** (epoch - drop)
        loss = before if epoch <= drop else after
        records.append({"epoch": epoch, "train_loss": loss, "train_accuracy": 1 - loss / 3})
    return records


def write_trunks(
    workdir: Path,
    seeds: Sequence[int],
    records: Sequence[Mapping[str, Any]],
    *,
    signals: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
    **axes: Any,
) -> None:
    """A finished trunk a seed; `signals` of a seed are values by epoch."""
    setting = {name: {**AXES, **axes}[name] for name in SETTING}
    for seed in seeds:
        own = (signals or {}).get(seed, {})
        entries = [
            {**record, "signals": {name: values[i] for name, values in own.items()}}
            for i, record in enumerate(records)
        ]
        described = {
            "kind": "trunk",
            **setting,
            "trunk_seed": seed,
            "first_epoch": 0,
            "last_epoch": len(records),
        }
        write(
            workdir / "trunks" / "_".join(map(str, (*setting.values(), seed))), described, entries
        )


def write_forks(
    workdir: Path,
    sparsities: Sequence[float],
    epochs: Sequence[int],
    test: np.ndarray,
    *,
    validation: np.ndarray | None = None,
    status: str = "finished",
    seeds: Sequence[int] | None = None,
    **axes: Any,
) -> None:
    """A fork a finite entry of `test` [S, E, seeds, replicates]."""
    named = {**AXES, **axes}
    seeds = range(test.shape[2]) if seeds is None else seeds
    for place in np.argwhere(np.isfinite(test)):
        s, e, seed, replicate = (int(index) for index in place)
        cell = {"trunk_seed": seeds[seed], "fork_epoch": epochs[e], "sparsity": sparsities[s]}
        entry = {"epoch": epochs[e] + 40, "test_accuracy": float(test[tuple(place)])}
        if validation is not None:
            entry["validation_accuracy"] = float(validation[tuple(place)])
        described = {
            "kind": "fork",
            **named,
            **cell,
            "replicate": replicate,
            "first_epoch": epochs[e] + 39,
            "last_epoch": epochs[e] + 40,
        }
        name = "_".join(map(str, (*named.values(), *cell.values(), replicate)))
        write(workdir / "forks" / name, described, [entry], {"status": status})


def write_comparisons(
    workdir: Path,
    sparsities: Sequence[float],
    epochs: Sequence[int],
    divergence: np.ndarray,
    **axes: Any,
) -> None:
    """A finished comparison an entry of `divergence` [S, E], of seed 0; NaN is a skipped one."""
    named = {**AXES, **axes}
    for place in np.ndindex(*divergence.shape):
        cell = {"trunk_seed": 0, "fork_epoch": epochs[place[1]], "sparsity": sparsities[place[0]]}
        described = {"kind": "comparison", **named, **cell, "replicates": [0, 1, 2]}
        value = float(divergence[place])
        numbers = {"num_examples": 50000, "model_similarity": value, "disagreement": value / 2}
        result = {"status": "finished", **numbers, "model_similarity_standard_error": value / 100}
        if np.isnan(value):
            result = {"status": "skipped", "reason": "a replicate diverged"}
        name = "_".join(map(str, (*named.values(), *cell.values())))
        write(workdir / "comparisons" / name, described, None, result)


def write_config(workdir: Path, **schedule: Any) -> None:
    workdirs.write_of_study(workdir, "config.json", {"schedule": schedule})


def write(
    directory: Path,
    described: Mapping[str, Any],
    entries: Sequence[dict[str, Any]] | None,
    result: Mapping[str, Any] | None = None,
) -> Path:
    return workdirs.write_run(directory, described, entries or (), result or {"status": "finished"})
