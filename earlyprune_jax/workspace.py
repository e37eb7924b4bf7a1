"""A workdir: which study it holds, and what made it."""

import importlib.metadata
import itertools
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import __version__, references
from earlyprune_jax.analysis import publish
from earlyprune_jax.grid import claims, identity, slurm_job
from earlyprune_jax.grid.members import Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.records import read_json, write_json
from earlyprune_jax.spec import RunSpec, Setting, Sweep, fixed_keys
from earlyprune_jax.tasks import Task
from earlyprune_jax.validate import InvalidInput, expected, unexpected

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "scikit-learn",
)


FORMAT = 2
"""Of the files of a workdir; study.json holds it."""

PLACE = ("execution", "device", "num_processes", "num_workers", "fork_width")
"""What has to stay the same for a resumed run to be bitwise the run it would have been."""

REMEDY = "Restore the file, or choose another --workdir."

OWN_FILES = (
    *publish.file_names(),
    "signal_budgets",
    "fork_widths",
    "env.json",
    "study.json",
    "trunks",
    "forks",
    "online",
    "comparisons",
    "slurm",
)


def check(workdir: Path, spec: RunSpec) -> list[str]:
    """Why this experiment cannot live in this directory; an empty or absent one is always fine."""
    if workdir.exists() and not workdir.is_dir():
        return [expected("--workdir", str(workdir), "to be a directory", "It is a file.")]
    held = read_json(workdir / "config.json", remedy=REMEDY)
    if held is None:
        foreign = [name for name in OWN_FILES if (workdir / name).exists()]
        allowed = f"to hold none of {', '.join(foreign)} without a config.json"
        remedy = "They would be overwritten: choose another directory."
        return [expected("--workdir", str(workdir), allowed, remedy)] if foreign else []
    if not all(isinstance(section, dict) for section in held.values()):
        allowed = "to hold no config.json of another program"
        return [expected("--workdir", str(workdir), allowed, "Choose another directory.")]
    study = read_json(workdir / "study.json", remedy=REMEDY)
    if study is None or study.get("format") != FORMAT:
        return [_of_other_version(workdir, study)]
    then = _settings(held) | set(_held_settings(study))
    return _differing_keys(workdir, then, spec) + _changed_code(
        workdir, study.get("code", {}), spec
    )


def _of_other_version(workdir: Path, study: dict[str, Any] | None) -> str:
    made = (
        "an earlier version" if study is None else f"another version (format {study.get('format')})"
    )
    allowed = f"to be made by this version of earlyprune_jax; it was made by {made}"
    remedy = (
        "Choose another --workdir to train. Its tables can still be read: "
        f"python -m earlyprune_jax.analysis.rules {workdir}, or analysis.compare."
    )
    return expected("--workdir", str(workdir), allowed, remedy)


def _differing_keys(workdir: Path, then: set[Any], spec: RunSpec) -> list[str]:
    """Keys whose values are neither those of the workdir, nor more, nor fewer: a sweep may grow."""
    now = _settings(spec.to_dict())
    if then <= now or now <= then:
        return []
    values = [_values(settings) for settings in (then, now)]
    names = [
        name
        for name in sorted(values[0].keys() | values[1].keys())
        if not _nested(values[0].get(name, set()), values[1].get(name, set()))
    ]
    lines = [
        f"  {name}: {_shown(values[0], name)} there, {_shown(values[1], name)} now"
        for name in names
    ]
    lines = lines or ["  combinations of swept values: " + ", ".join(spec.sweep.keys)]
    remedy = (
        "Choose another --workdir, or the config that was used there; a sweep may add values to those "
        "that are there. Differing keys:\n"
    )
    return [
        expected("--workdir", str(workdir), "to hold the same study", remedy + "\n".join(lines))
    ]


def _held_settings(study: dict[str, Any]) -> list[Any]:
    return [tuple(map(tuple, setting)) for setting in study.get("settings", ())]


def _settings(config: dict[str, Any]) -> set[tuple[tuple[str, str], ...]]:
    """Every setting of a config, as (key, value in JSON) pairs of what decides runs."""
    base = fixed_keys(config)
    swept = Sweep.from_dict(config.get("sweep", {})).settings()
    every = (base | dict(setting.values) for setting in swept)
    return {
        tuple(sorted((name, json.dumps(value)) for name, value in one.items())) for one in every
    }


def _values(settings: Iterable[tuple[tuple[str, str], ...]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, value in itertools.chain.from_iterable(settings):
        found.setdefault(name, set()).add(value)
    return found


def _nested(first: set[str], second: set[str]) -> bool:
    return first <= second or second <= first


def _shown(values: dict[str, set[str]], name: str) -> str:
    return ", ".join(sorted(values.get(name, {"absent"})))


def _changed_code(workdir: Path, held: dict[str, str], spec: RunSpec) -> list[str]:
    """The user's code that runs of the workdir were made with, and that has changed since."""
    changed = [path for path, now in spec.code if path in held and held[path] != now]
    if not changed:
        return []
    remedy = (
        "A module of these, or one that it imports, has changed: restore it, or choose another --workdir. A "
        f"module that defines {references.VERSION} = '...' is known by that text instead of by its source."
    )
    return [
        expected("code", ", ".join(changed), f"to be the code that {workdir} was made with", remedy)
    ]


def describe(
    workdir: Path,
    spec: RunSpec,
    *,
    form: str,
    data_digests: Mapping[Setting, str],
    task: Task,
    how: Options,
    trains: bool = True,
) -> None:
    """Makes the workdir, writes config.json and study.json, and adds this session to env.json.

    A session that does not train, but has others do it, says so there: it may be of other hardware.

    Args:
        workdir: of the study.
        spec: of the study.
        form: how step sequences are executed.
        data_digests: setting of a trunk -> the digest of its data.
        task: whose metrics are reported.
        how: workers and batches.
        trains: whether this session trains.

    Raises:
        InvalidInput: the workdir cannot be written, another study has been begun in it meanwhile,
            or earlier runs here were made with other data of the same name.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with claims.held(workdir):
            problems = check(workdir, spec) or _changed_data(workdir, spec, data_digests)
            if problems:
                raise InvalidInput(problems)
            _describe(workdir, spec, form, task, how, trains)
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        raise unexpected("--workdir", str(workdir), allowed, "Choose another.") from error


def _changed_data(workdir: Path, spec: RunSpec, data_digests: Mapping[Setting, str]) -> list[str]:
    """Data that have changed since trunks here were trained on them: each trunk's run.json knows
    its own."""
    problems = []
    for setting, digest in data_digests.items():
        for seed in spec.train.seeds:
            found = read_json(
                workdir / identity.directory(spec, Trunk(setting, seed)) / "run.json", remedy=REMEDY
            )
            held = (found or {}).get("data_sha256", digest)
            if held != digest:
                allowed = (
                    f"to hold the data that runs in {workdir} were trained on (SHA-256 {held})"
                )
                remedy = "It has changed since: restore it, or choose another --workdir."
                problems.append(expected("data.name", spec.at(setting).data.name, allowed, remedy))
                break
    return list(dict.fromkeys(problems))


def _describe(
    workdir: Path, spec: RunSpec, form: str, task: Task, how: Options, trains: bool
) -> None:
    sessions = read_json(workdir / "env.json", list, remedy=REMEDY) or []
    session = environment() | {"execution": form}
    session |= {"num_workers": how.num_workers, "fork_width": how.fork_width, "trains": trains}
    trained = next((each for each in reversed(sessions) if each.get("trains", True)), session)
    moved = [
        f"{key} {trained[key]} -> {session[key]}"
        for key in PLACE
        if trained.get(key, session[key]) != session[key]
    ]
    if moved and trains:
        warnings.warn(
            f"Resumed elsewhere ({', '.join(moved)}): no longer bitwise the same run.", stacklevel=2
        )
    held = read_json(workdir / "study.json", remedy=REMEDY) or {}
    study = {
        "format": FORMAT,
        "metrics": [metric.to_json() for metric in task.all_metrics],
        "primary": task.primary,
        "settings": sorted(_settings(spec.to_dict()) | set(_held_settings(held))),
        "code": held.get("code", {}) | dict(spec.code),
        "folder": spec.folder or held.get("folder"),
    }
    write_json(workdir / "config.json", spec.to_dict())
    write_json(workdir / "study.json", study)
    write_json(workdir / "env.json", [*sessions, session])


def environment() -> dict[str, Any]:
    """Versions, hardware, command and time: what made the results."""
    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {"earlyprune-jax": __version__} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": platform.node(),
        "slurm_job": slurm_job.job_id(),
        "cpu": _cpu_model(),
        "num_cpus": os.cpu_count(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
