"""Hand-made workdirs: the files an experiment leaves, with numbers chosen by the test."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records as stored
from earlyprune_jax.run_records import RunRecords

SETTING = {"model": "resnet8", "train_fraction": 1.0, "schedule": "exponential"}
FAILED = {"status": "failed", "reason": "RuntimeError: out of memory"}
LOSS = {"name": "loss", "unit": "nats", "larger_is_better": False}
ACCURACY = {"name": "accuracy", "unit": "%", "larger_is_better": True}


def write_config(
    workdir: Path,
    *,
    num_epochs: int = 40,
    retraining: Sequence[str] = (),
    criteria: Sequence[str] = (),
) -> None:
    sections: dict[str, dict[str, Any]] = {
        "data": {"name": "digits"},
        "model": {"names": ["resnet8"]},
        "train": {"num_epochs": num_epochs},
        "pruning": {"layers": "conv_kernels"} | ({"criteria": list(criteria)} if criteria else {}),
        "fork": {"retraining": list(retraining)} if retraining else {},
        "signals": {"fisher_layers": "conv_kernels"},
    }
    write_of_study(workdir, "config.json", sections)


def records(
    first_epoch: int,
    test_accuracy: Sequence[float],
    *,
    validation_accuracy: Sequence[float] | None = None,
    signals: Sequence[Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One record an epoch after `first_epoch`; the other metrics follow from the epoch."""
    made = []
    for index, accuracy in enumerate(test_accuracy):
        epoch = first_epoch + index + 1
        validation = None if validation_accuracy is None else validation_accuracy[index]
        record = {
            "epoch": epoch,
            "step": 9 * epoch,
            "learning_rate": 0.1 / epoch,
            "train_loss": 1.0 / epoch,
            "train_accuracy": 0.99,
            "validation_loss": None if validation is None else 0.5,
            "validation_accuracy": validation,
            "test_loss": 0.25,
            "test_accuracy": accuracy,
            "seconds": 0.5,
        }
        made.append(record if signals is None else {**record, "signals": signals[index]})
    return made


def write_trunk(
    workdir: Path,
    seed: int,
    run_records: Iterable[dict[str, Any]],
    *,
    last_epoch: int = 40,
    result: dict[str, Any] | None = None,
    setting: Mapping[str, Any] = SETTING,
) -> Path:
    description = {
        "kind": "trunk",
        **setting,
        "trunk_seed": seed,
        **dict.fromkeys(
            ("fork_epoch", "criterion", "scope", "sparsity", "retraining", "replicate")
        ),
        "first_epoch": 0,
        "last_epoch": last_epoch,
    }
    name = f"{_prefix(setting)}seed-{seed}"
    return write_run(workdir / "trunks" / name, description, run_records, result)


def write_fork(
    workdir: Path,
    seed: int,
    fork_epoch: int,
    run_records: Iterable[dict[str, Any]],
    *,
    sparsity: float = 0.97,
    scope: str = "global",
    retraining: str = "paper_a",
    replicate: int = 0,
    last_epoch: int = 40,
    result: dict[str, Any] | None = None,
    setting: Mapping[str, Any] = SETTING,
) -> Path:
    description = {
        "kind": "fork",
        **setting,
        "trunk_seed": seed,
        "fork_epoch": fork_epoch,
        "criterion": "magnitude",
        "scope": scope,
        "sparsity": sparsity,
        "retraining": retraining,
        "replicate": replicate,
        "first_epoch": fork_epoch,
        "last_epoch": last_epoch,
    }
    cell = f"magnitude_{scope}_s{sparsity}_{retraining}_r{replicate}"
    name = f"{_prefix(setting)}seed-{seed}_epoch-{fork_epoch}_{cell}"
    return write_run(workdir / "forks" / name, description, run_records, result)


def write_online(
    workdir: Path,
    seed: int,
    fork_epoch: int | None,
    run_records: Iterable[dict[str, Any]],
    *,
    trigger: str = "peak(fisher_trace)",
    fired_epoch: int | None = None,
    marked_epoch: int | None = None,
    mode: str = "now",
    sparsity: float = 0.97,
    last_epoch: int = 40,
    result: dict[str, Any] | None = None,
    setting: Mapping[str, Any] = SETTING,
) -> Path:
    """A run that pruned itself; `fork_epoch` is the epoch of its weights."""
    description = {
        "kind": "online",
        **setting,
        "trunk_seed": seed,
        "fork_epoch": fork_epoch,
        "criterion": "magnitude",
        "scope": "global",
        "sparsity": sparsity,
        "retraining": "paper_a",
        "replicate": 0,
        "first_epoch": fork_epoch or 0,
        "last_epoch": last_epoch,
        "trigger": trigger,
        "fired_epoch": fired_epoch,
        "marked_epoch": marked_epoch,
        "mode": mode,
        "reason": None if fired_epoch is None else f"{trigger} fired",
    }
    name = f"{_prefix(setting)}seed-{seed}_magnitude_global_s{sparsity}_paper_a_r0"
    return write_run(workdir / "online" / name, description, run_records, result)


def finished(epoch: int = 40, achieved_sparsity: float = 0.0) -> dict[str, Any]:
    return {
        "status": "finished",
        "epoch": epoch,
        "step": 9 * epoch,
        "achieved_sparsity": achieved_sparsity,
        "reason": None,
    }


def write_study(workdir: Path, metrics: Sequence[Mapping[str, Any]], primary: str) -> None:
    """What a workdir says of its metrics."""
    workdir.mkdir(parents=True, exist_ok=True)
    held = {"format": stored.FORMAT, "id": "handmade", "metrics": list(metrics)}
    held |= {"primary": primary, "code": {}, "folder": None}
    stored.write_of_study(workdir, "study.json", held)


def write_of_study(workdir: Path, name: str, value: Mapping[str, Any]) -> None:
    """A record of a workdir, which is one of classifiers if it does not say otherwise."""
    if not (workdir / "study.json").exists():
        write_study(workdir, (LOSS, ACCURACY), "accuracy")
    stored.write_of_study(workdir, name, dict(value))


def write_run(
    directory: Path,
    description: Mapping[str, Any],
    entries: Iterable[dict[str, Any]],
    result: Mapping[str, Any] | None,
) -> Path:
    """The records of a run of a workdir, as `write_of_study`."""
    if not (directory.parents[1] / "study.json").exists():
        write_study(directory.parents[1], (LOSS, ACCURACY), "accuracy")
    run = RunRecords(directory)
    run.start(dict(description))
    for entry in entries:
        run.append(entry)
    if result is not None:
        run.finish(dict(result))
    return directory


def move_run(directory: Path, target: Path) -> None:
    """Makes a run stand at another place, of another name perhaps."""
    run = RunRecords(directory).read()
    write_run(target, run.description or {}, run.epochs, run.result)
    shutil.rmtree(directory)


def read(path: Path) -> dict[str, Any]:
    """What a record holds besides its checksum."""
    held = json.loads(path.read_text())
    del held["checksum"]
    return held


def edit(path: Path, change: Mapping[str, Any]) -> None:
    """Changes keys of a record, whose checksum is then right."""
    workdir = path.parents[2] if path.name in stored.OF_RUNS else path.parent
    study = "" if path.name in (*stored.OF_RUNS, stored.STUDY) else stored.study_id(workdir) or ""
    stored.write_json(path, read(path) | dict(change), study=study)


def rows_of(table: Any) -> list[dict[str, Any]]:
    """The rows of a pandas.DataFrame, None where there is no value."""
    return table.astype("object").where(table.notna(), None).to_dict("records")


def _prefix(setting: Mapping[str, Any]) -> str:
    """What sets the directories of another setting apart; of two configs nothing but digits."""
    if setting == SETTING:
        return ""
    config = setting.get("config")
    named = [str(value) for name, value in setting.items() if name != "config"]
    digits = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
    return "_".join([*named, digits] if config else named) + "_"
