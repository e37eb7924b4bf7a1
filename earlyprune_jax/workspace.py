"""A workdir: which study it holds, and what made it."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from earlyprune_jax import __version__, assets, storage, tasks, user_code
from earlyprune_jax.analysis import results
from earlyprune_jax.grid import plan, signature
from earlyprune_jax.grid.locks import held
from earlyprune_jax.grid.members import Comparison, Trunk, row
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.records import (
    CONFIG,
    ENVIRONMENT,
    FOLDERS,
    FORMAT,
    NUM_DIGITS,
    PLAN,
    STUDY,
    STUDY_REMEDY,
    read_json,
    read_of_study,
    sound,
    write_of_study,
)
from earlyprune_jax.spec import RunSpec, Setting, combined, fixed_keys, sweep_axes
from earlyprune_jax.storage import StorageError
from earlyprune_jax.training.checkpoint import unusable_path
from earlyprune_jax.training.retraining import trunk_schedule
from earlyprune_jax.training.schedules import rate_at
from earlyprune_jax.validate import expected, refuse, unexpected

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
    *("numpy", "tensorflow-datasets", "scikit-learn"),
)
ENV_REMEDY = "Delete this file alone: it says which sessions have worked here, and no number."
OWN_FILES = (
    *results.TABLES,
    *("figures", results.REPRODUCED),
    *FOLDERS.values(),
    *("signal_budgets", assets.FOLDER, ENVIRONMENT, STUDY, PLAN, "slurm"),
)

FlatSetting = tuple[tuple[str, str], ...]
"""(key, value in JSON) of all that decides runs, sorted."""


def check(workdir: Path, spec: RunSpec) -> list[str]:
    """Lists why this experiment cannot live in this directory; an absent or empty one is fine."""
    if problems := _path_problems(workdir):
        return problems
    try:
        return _check(workdir, spec)
    except OSError as error:
        allowed = f"to be a directory that can be read ({error.strerror})"
        return [expected("--workdir", str(workdir), allowed, "Choose another.")]


def _path_problems(workdir: Path) -> list[str]:
    remedy = "Choose another, or reach it by a link of another name."
    allowed = unusable_path(workdir)
    return [expected("--workdir", str(workdir), allowed, remedy)] if allowed else []


def _check(workdir: Path, spec: RunSpec) -> list[str]:
    def refused(allowed: str, remedy: str) -> list[str]:
        return [expected("--workdir", str(workdir), allowed, remedy)]

    if workdir.exists() and not workdir.is_dir():
        return refused("to be a directory", "It is a file.")
    if not (workdir / STUDY).exists():
        found = [name for name in (CONFIG, *OWN_FILES) if (workdir / name).exists()]
        allowed = f"to hold none of {', '.join(found)} without a study.json"
        remedy = "They would be overwritten: choose another, or restore study.json if it is lost."
        return refused(allowed, remedy) if found else []
    study, config = read_of_study(workdir, STUDY) or {}, read_of_study(workdir, CONFIG)
    if config is None and not any((workdir / name).exists() for name in FOLDERS.values()):
        return []  # Of a session that was killed between its first two writes.
    if config is None:
        return [expected("file", str(workdir / CONFIG), "to exist", STUDY_REMEDY)]
    with sound(workdir):
        then, now = _settings(config, study), _settings(spec.to_dict())
    varied = {*spec.figure.varied} & {*config.get("figure", {}).get("varied", ())}
    differing = _differing_keys(_without(then, varied), _without(now, varied))
    remedy = (
        "Choose another --workdir, or the config that was used there; a sweep may add values to "
        "those that are there."
    )
    remedy += f" Differing keys:\n{differing}"
    remedy += _lacking(spec) if spec.figure.name else ""
    problems = refused("to hold the same study", remedy) if differing else []
    return problems + _changed_code(workdir, study, spec)


def require_sound(workdir: Path) -> None:
    """Reads what every session writes anew, and `check` does not look at.

    Raises:
        InvalidInput: a record of it is damaged.
    """
    for name in (PLAN, ENVIRONMENT):
        read_of_study(workdir, name, remedy=ENV_REMEDY)


def last_figure(workdir: Path) -> str:
    """Returns the published figure that the last session was of; empty where it was of none."""
    return ((read_of_study(workdir, CONFIG) or {}).get("figure") or {}).get("name", "")


def _settings(config: dict[str, Any], study: Mapping[str, Any] | None = None) -> set[FlatSetting]:
    """Returns every setting of a config, and of the earlier ones that study.json knows."""
    settings = {tuple(map(tuple, setting)) for setting in (study or {}).get("settings", ())}
    for swept in combined(sweep_axes(config.get("sweep", {}))):
        values = fixed_keys(config) | dict(swept.values)
        settings.add(tuple(sorted((key, json.dumps(value)) for key, value in values.items())))
    return settings


def _lacking(spec: RunSpec) -> str:
    """Says what a figure needs of which a workdir of another study has nothing."""
    missing = plan.members(spec)
    trained = [member for member in missing if not isinstance(member, Comparison)]
    epochs = sum(member.num_epochs(spec.at(member.setting)) for member in trained)
    figure = f"{spec.figure.name} ({spec.figure.scale})"
    return f"\nFigure {figure} lacks all its {len(missing)} runs there, {epochs:,} epochs to train."


def _without(settings: set[FlatSetting], keys: set[str]) -> set[FlatSetting]:
    """Leaves out keys in which figures of one workdir may differ."""
    return {tuple(pair for pair in setting if pair[0] not in keys) for setting in settings}


def _differing_keys(then: set[FlatSetting], now: set[FlatSetting]) -> str:
    """Names keys whose values are neither those of the workdir, nor more, nor fewer."""
    if then <= now or now <= then:
        return ""
    lines, keys = [], sorted({name for setting in then | now for name, _ in setting})
    for name in keys:
        first, second = (
            {dict(setting)[name] for setting in settings if name in dict(setting)}
            for settings in (then, now)
        )
        if not (first <= second or second <= first):
            shown_then, shown_now = ", ".join(sorted(first)), ", ".join(sorted(second))
            lines.append(f"  {name}: {shown_then} there, {shown_now} now")
    several = [key for key in keys if len({dict(setting).get(key) for setting in then | now}) > 1]
    return "\n".join(lines) or f"  combinations of swept values: {', '.join(several)}"


def require_code(workdir: str | Path | None, paths: Iterable[str]) -> None:
    """Refuses code of the user's that has changed since a workdir's runs were made with it, before
    it is imported.

    Code that only shows when it runs is compared by `check`, after the import.

    Args:
        workdir: that of the command, there or not; None = not known yet.
        paths: the import paths that a config names.

    Raises:
        InvalidInput: it has changed, or study.json cannot be read.
    """
    refuse(_path_problems(Path(workdir)) if workdir else [])
    study = (read_of_study(Path(workdir), STUDY) if workdir else None) or {}
    code, modules = study.get("code", {}), study.get("modules", {})
    named = {
        path: user_code.changed_sources(path, code[path], modules) for path in paths if path in code
    }
    changed = [path for path, names in sorted(named.items()) if names]
    refuse(_changed(workdir, changed, sorted({name for names in named.values() for name in names})))


def _changed_code(workdir: Path, study: Mapping[str, Any], spec: RunSpec) -> list[str]:
    """Names the user's code that runs of the workdir were made with, and that has changed since."""
    then = study.get("code", {})
    changed = [path for path, digest in spec.code if then.get(path, digest) != digest]
    sources, modules = user_code.source_digests(), study.get("modules", {})
    named = [name for name, digest in modules.items() if sources.get(name, digest) != digest]
    return _changed(workdir, changed, named)


def _changed(workdir: Any, paths: list[str], modules: list[str]) -> list[str]:
    if not paths:
        return []
    allowed = f"to be the code that {workdir} was made with"
    remedy = (
        f"Changed since, of these or of what they import: {', '.join(modules) or 'a module'}. "
        "Restore it, give the new code another name (a copy of the module: its runs then stand "
        "beside the old ones), or choose another --workdir. A module that defines "
        f"{user_code.VERSION} = '...' is known by that text instead of by its source."
    )
    return [expected("code", ", ".join(paths), allowed, remedy)]


def describe(
    study: Study, options: Options, data_digests: Mapping[Setting, str], *, trains: bool = True
) -> None:
    """Makes the workdir, writes config.json, study.json and plan.json, and adds this session to
    env.json.

    Args:
        study: of the workdir.
        options: workers and batches.
        data_digests: setting of a trunk -> the digest of its data.
        trains: whether this session trains. One that has others do it may be of other hardware.

    Raises:
        InvalidInput: the workdir cannot be written, another study has been begun in it meanwhile,
            or earlier runs here were made with other data of the same name.
    """
    workdir = study.workdir
    try:
        with held(workdir):
            drawn = sorted(workdir.glob(f"{results.REPRODUCED}/*"))
            folders = "", "figures", "signal_budgets", assets.FOLDER
            for folder in (*folders, *drawn, *(folder / "figures" for folder in drawn)):
                storage.clean(workdir / folder, is_held=False)
            refuse(check(workdir, study.spec) or changed_data(study, data_digests))
            spec, before = study.spec, read_of_study(workdir, STUDY) or {}
            task = tasks.abstract(spec.at(spec.settings()[0]))
            described = {
                "format": FORMAT,
                # With it the other records of the workdir are sealed.
                "id": before.get("id") or uuid.uuid4().hex[:NUM_DIGITS],
                "metrics": [dataclasses.asdict(metric) for metric in task.all_metrics],
                "primary": task.primary,
                # The union over all sessions, so of code and modules.
                "settings": sorted(_settings(spec.to_dict(), before)),
                "code": before.get("code", {}) | dict(spec.code),
                # Whichever was first: with these the code above was written down.
                "modules": user_code.source_digests() | before.get("modules", {}),
                "folder": spec.folder or before.get("folder"),
            }
            write_of_study(workdir, STUDY, described)
            write_of_study(workdir, CONFIG, spec.to_dict())
            write_of_study(workdir, PLAN, _plan(study))
            _add_session(workdir, options, trains)
    except StorageError:
        raise
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        raise unexpected("--workdir", str(workdir), allowed, "Choose another.") from error


def _plan(study: Study) -> dict[str, Any]:
    """Says which members this session's grid has, cell by cell, for `status`: see `status.Cell`.

    Of a search all that it may ask for are named.
    """
    spec = study.spec
    cells: dict[tuple[Any, ...], list[str]] = {}
    for member in plan.members(spec):
        epochs = 0 if isinstance(member, Comparison) else member.num_epochs(spec.at(member.setting))
        cell = member.kind, row(member), getattr(member, "fork_epoch", None), epochs
        cells.setdefault(cell, []).append(study.directory(member).name)
    names = ("kind", "row", "fork_epoch", "num_epochs", "members")
    listed = [dict(zip(names, (*cell, held), strict=True)) for cell, held in cells.items()]
    rates = {"learning_rates": _rates(spec)} if spec.figure.name else {}
    return {"search": spec.fork.search, "cells": listed, **rates}


def _rates(spec: RunSpec) -> dict[str, list[float]]:
    """Returns setting, in words -> the learning rate at the start of each epoch of its trunks."""
    found = {}
    for setting in dict.fromkeys(setting.trunk for setting in spec.settings()):
        steps = tasks.abstract(own := spec.at(setting)).batching.steps_per_epoch
        schedule = trunk_schedule(own, steps).schedule
        starts = range(0, own.train.num_epochs * steps, steps)
        found[setting.words()] = [rate_at(schedule, start) for start in starts]
    return found


def keep_assets(study: Study, say: Callable[[str], None]) -> None:
    """Writes what tasks want kept beside their runs, where it is not there as it should be.

    Args:
        study: whose workdir has been described.
        say: called with a sentence for what runs had kept, and is lost or damaged.
    """
    for setting in dict.fromkeys(setting.trunk for setting in study.spec.settings()):
        kept = tasks.abstract(study.at(setting)).assets
        if not any(assets.problem(study.workdir, path) for path in assets.paths(kept).values()):
            continue
        runs = _trunks_described(study, setting)
        named = {path for run in runs for path in run.get(assets.KEY, {}).values()}
        with held(study.workdir):
            for path in assets.write(study.workdir, kept):
                if path in named:
                    say(f"{study.workdir / path} was lost or damaged. It is written again.")


def _trunks_described(study: Study, setting: Setting) -> list[dict[str, Any]]:
    """Reads what the records of a setting's trunks say, {} where there is none."""
    trunks = [Trunk(setting, seed) for seed in study.spec.train.seeds]
    return [read_json(study.directory(trunk) / "run.json") or {} for trunk in trunks]


def close(study: Study) -> None:
    """Says in plan.json that a search has ended, if it has: nobody else could tell.

    Not where the plan is another's by now, of a session that has begun meanwhile.
    """
    if study.spec.fork.search == "all" or study.unended(study.wanted_members()):
        return
    own = _plan(study)
    with held(study.workdir):
        if read_of_study(study.workdir, PLAN) == own:
            write_of_study(study.workdir, PLAN, own | {"ended": True})


def changed_data(study: Study, data_digests: Mapping[Setting, str]) -> list[str]:
    """Names data that have changed since trunks here were trained on them.

    Args:
        study: of the workdir.
        data_digests: setting of a trunk -> the digest of its data.
    """
    problems = []
    remedy = "It has changed since: restore it, or choose another --workdir."
    for setting, digest in data_digests.items():
        described = _trunks_described(study, setting)
        then = next((run["data_sha256"] for run in described if "data_sha256" in run), digest)
        if then != digest:
            allowed = f"to hold the data that {study.workdir} was trained on (SHA-256 {then})"
            problems.append(expected("data.name", study.at(setting).data.name, allowed, remedy))
    return list(dict.fromkeys(problems))


def _add_session(workdir: Path, options: Options, trains: bool) -> None:
    """Adds this session to env.json: versions, hardware, command and time, which make the
    results."""
    sessions = (read_of_study(workdir, ENVIRONMENT, remedy=ENV_REMEDY) or {}).get("sessions", [])
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {"earlyprune-jax": __version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": platform.node(),
        "slurm_job": job_id(),
        "cpu": signature.cpu_model(),
        "num_cpus": os.cpu_count(),
        "num_workers": options.num_workers,
        "fork_width": options.fork_width,
        "trains": trains,
        "signature": signature.signature(),
    }
    write_of_study(workdir, ENVIRONMENT, {"sessions": [*sessions, session]})


def job_id() -> str:
    """Returns this Slurm job's id as scontrol knows it; empty outside of Slurm.

    Of an array's task it is `ARRAY_TASK`: the plain id of the last task is that of the whole array.
    """
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "")
