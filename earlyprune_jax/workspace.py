"""A workdir: which study it holds, and what made it."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import __version__, tasks, user_code
from earlyprune_jax.analysis import results
from earlyprune_jax.grid import locks
from earlyprune_jax.grid.members import Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.records import FOLDERS, read_json, write_json
from earlyprune_jax.spec import RunSpec, Setting, Sweep, fixed_keys
from earlyprune_jax.training.execution import execution_form
from earlyprune_jax.validate import InvalidInput, expected, unexpected

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
    *("numpy", "tensorflow-datasets", "scikit-learn"),
)
FORMAT = 3
"""Of the files of a workdir; study.json holds it."""
READ_BY = {2: "0.1.0 before fork.rules became fork.retraining"}
"""Format of earlier workdirs -> the version that trains on in them."""
BITWISE = ("execution", "device", "num_processes", "num_workers", "fork_width")
"""Entries of env.json that must stay the same for a resumed run to be bitwise the same."""
REMEDY = "Restore the file, or choose another --workdir."
OWN_FILES = (
    *results.TABLES,
    "figures",
    *FOLDERS.values(),
    *("signal_budgets", "fork_widths", "env.json", "study.json", "slurm"),
)

FlatSetting = tuple[tuple[str, str], ...]
"""(key, value in JSON) of all that decides runs, sorted."""


def check(workdir: Path, spec: RunSpec) -> list[str]:
    """Lists why this experiment cannot live in this directory; an absent or empty one is fine."""
    if workdir.exists() and not workdir.is_dir():
        return [expected("--workdir", str(workdir), "to be a directory", "It is a file.")]
    config = read_json(workdir / "config.json", remedy=REMEDY)
    if config is None:
        foreign = [name for name in OWN_FILES if (workdir / name).exists()]
        allowed = f"to hold none of {', '.join(foreign)} without a config.json"
        remedy = "They would be overwritten: choose another directory."
        return [expected("--workdir", str(workdir), allowed, remedy)] if foreign else []
    if not all(isinstance(section, dict) for section in config.values()):
        allowed = "to hold no config.json of another program"
        return [expected("--workdir", str(workdir), allowed, "Choose another directory.")]
    study = read_json(workdir / "study.json", remedy=REMEDY) or {}
    if (number := study.get("format")) != FORMAT:
        allowed = f"to be of format {FORMAT}, that of this version; it is of format {number or 1}"
        reader = f", or train on with earlyprune_jax {READ_BY[number]}" if number in READ_BY else ""
        remedy = (
            f"Choose another --workdir to train{reader}. Its tables can still be read: "
            f"python -m earlyprune_jax.analysis.rules {workdir}, or analysis.compare."
        )
        return [expected("--workdir", str(workdir), allowed, remedy)]
    then = _settings(config) | _held_settings(study)
    return _differing_keys(workdir, then, spec) + _changed_code(workdir, study, spec)


def _differing_keys(workdir: Path, then: set[FlatSetting], spec: RunSpec) -> list[str]:
    """Names keys whose values are neither those of the workdir, nor more, nor fewer."""
    now = _settings(spec.to_dict())
    if then <= now or now <= then:
        return []
    lines = []
    for name in sorted({name for setting in then | now for name, _ in setting}):
        first, second = (
            {value for setting in settings for key, value in setting if key == name}
            for settings in (then, now)
        )
        if not (first <= second or second <= first):
            shown_then, shown_now = ", ".join(sorted(first)), ", ".join(sorted(second))
            lines.append(f"  {name}: {shown_then} there, {shown_now} now")
    lines = lines or ["  combinations of swept values: " + ", ".join(spec.sweep.keys)]
    remedy = (
        "Choose another --workdir, or the config that was used there; a sweep may add values to "
        "those that are there. Differing keys:\n"
    )
    allowed = "to hold the same study"
    return [expected("--workdir", str(workdir), allowed, remedy + "\n".join(lines))]


def _held_settings(study: Mapping[str, Any]) -> set[FlatSetting]:
    return {tuple(map(tuple, setting)) for setting in study.get("settings", ())}


def _settings(config: dict[str, Any]) -> set[FlatSetting]:
    """Returns every setting of a config."""
    swept = Sweep.from_dict(config.get("sweep", {})).settings()
    settings = (fixed_keys(config) | dict(setting.values) for setting in swept)
    return {
        tuple(sorted((key, json.dumps(value)) for key, value in values.items()))
        for values in settings
    }


def _changed_code(workdir: Path, study: Mapping[str, Any], spec: RunSpec) -> list[str]:
    """Names the user's code that runs of the workdir were made with, and that has changed since."""
    then = study.get("code", {})
    changed = [path for path, digest in spec.code if then.get(path, digest) != digest]
    if not changed:
        return []
    sources = user_code.source_digests()
    modules = [
        name
        for name, digest in study.get("modules", {}).items()
        if sources.get(name, digest) != digest
    ]
    allowed = f"to be the code that {workdir} was made with"
    remedy = (
        f"Changed since, of these or of what they import: {', '.join(modules) or 'a module'}. "
        "Restore it, give the new code another name (a copy of the module: its runs then stand "
        "beside the old ones), or choose another --workdir. A module that defines "
        f"{user_code.VERSION} = '...' is known by that text instead of by its source."
    )
    return [expected("code", ", ".join(changed), allowed, remedy)]


def describe(
    study: Study, options: Options, data_digests: Mapping[Setting, str], *, trains: bool = True
) -> None:
    """Makes the workdir, writes config.json and study.json, and adds this session to env.json.

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
        workdir.mkdir(parents=True, exist_ok=True)
        with locks.held(workdir):
            if problems := check(workdir, study.spec) or changed_data(study, data_digests):
                raise InvalidInput(problems)
            described = _described(study)
            write_json(workdir / "config.json", study.spec.to_dict())
            write_json(workdir / "study.json", described)
            _add_session(workdir, options, trains)
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        raise unexpected("--workdir", str(workdir), allowed, "Choose another.") from error


def changed_data(study: Study, data_digests: Mapping[Setting, str]) -> list[str]:
    """Names data that have changed since trunks here were trained on them.

    Args:
        study: of the workdir.
        data_digests: setting of a trunk -> the digest of its data.
    """
    problems = []
    remedy = "It has changed since: restore it, or choose another --workdir."
    for setting, digest in data_digests.items():
        trunks = [Trunk(setting, seed) for seed in study.spec.train.seeds]
        described = [read_json(study.directory(trunk) / "run.json") or {} for trunk in trunks]
        then = next((run["data_sha256"] for run in described if "data_sha256" in run), digest)
        if then != digest:
            allowed = f"to hold the data that {study.workdir} was trained on (SHA-256 {then})"
            problems.append(expected("data.name", study.at(setting).data.name, allowed, remedy))
    return list(dict.fromkeys(problems))


def _add_session(workdir: Path, options: Options, trains: bool) -> None:
    """Adds this session to env.json; warns where a resumed run will not be bitwise the same."""
    sessions = read_json(workdir / "env.json", list, remedy=REMEDY) or []
    session = {
        **environment(),
        "execution": execution_form(jax.default_backend()),
        "num_workers": options.num_workers,
        "fork_width": options.fork_width,
        "trains": trains,
    }
    trained = next((past for past in reversed(sessions) if past.get("trains", True)), session)
    changes = {key: (trained.get(key, session[key]), session[key]) for key in BITWISE}
    moved = [f"{key} {then} -> {now}" for key, (then, now) in changes.items() if then != now]
    if moved and trains:
        message = f"Resumed elsewhere ({', '.join(moved)}): no longer bitwise the same run."
        warnings.warn(message, stacklevel=2)
    write_json(workdir / "env.json", [*sessions, session])


def _described(study: Study) -> dict[str, Any]:
    """Returns study.json: metrics, and the union of the settings and code of all sessions."""
    spec, before = study.spec, read_json(study.workdir / "study.json", remedy=REMEDY) or {}
    task = tasks.abstract(spec.at(spec.settings()[0]))
    return {
        "format": FORMAT,
        "metrics": [dataclasses.asdict(metric) for metric in task.all_metrics],
        "primary": task.primary,
        "settings": sorted(_settings(spec.to_dict()) | _held_settings(before)),
        "code": before.get("code", {}) | dict(spec.code),
        # Whichever was first: with these the code above was written down.
        "modules": user_code.source_digests() | before.get("modules", {}),
        "folder": spec.folder or before.get("folder"),
    }


def environment() -> dict[str, Any]:
    """Returns versions, hardware, command and time: what makes the results."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {"earlyprune-jax": __version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": platform.node(),
        "slurm_job": job_id(),
        "cpu": _cpu_model(),
        "num_cpus": os.cpu_count(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def job_id() -> str:
    """Returns this Slurm job's id as scontrol knows it; empty outside of Slurm.

    Of an array's task it is `ARRAY_TASK`: the plain id of the last task is that of the whole array.
    """
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
