"""A workdir: which study it holds, and what made it."""

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import __version__
from earlyprune_jax.grid import claims, slurm_job
from earlyprune_jax.grid.options import Options
from earlyprune_jax.records import read_json, write_json
from earlyprune_jax.spec import RunSpec, fixed_keys
from earlyprune_jax.validate import InvalidInput, expected

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


PLACE = ("execution", "device", "num_processes", "num_workers", "fork_width")
"""What has to stay the same for a resumed run to be bitwise the run it would have been."""

REMEDY = "Restore the file, or choose another --workdir."

OWN_FILES = (
    "results.csv",
    "signals.csv",
    "rules.csv",
    "rule_choices.csv",
    "signal_correlations.csv",
    "comparisons.csv",
    "regimes.csv",
    "regime_cells.csv",
    "regime_alignment.csv",
    "regime_baselines.csv",
    "signal_budgets",
    "fork_widths",
    "env.json",
    "figures",
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
    differing = _differences(fixed_keys(held), spec.fixed()) + _moved_mask(held, spec)
    if not differing:
        return []
    lines = [f"  {name}: {old!r} there, {new!r} now" for name, old, new in differing]
    remedy = "Choose another --workdir, or the config that was used there. Differing keys:\n"
    return [expected("--workdir", str(workdir), "to hold the same study", remedy + "\n".join(lines))]


def _moved_mask(held: dict[str, Any], spec: RunSpec) -> list[tuple[str, Any, Any]]:
    """Axes whose first value decides a signal of the trunks: mask_distance compares masks of that cell."""
    if "mask_distance" not in spec.signals.names:
        return []
    now = spec.to_dict()["pruning"]
    names = ("criteria", "scopes", "sparsities")
    firsts = ((name, held.get("pruning", {}).get(name), now[name]) for name in names)
    return [
        (f"pruning.{name} (the first is mask_distance's)", old, new)
        for name, old, new in firsts
        if not old or old[0] != new[0]
    ]


def describe(
    workdir: Path, spec: RunSpec, *, form: str, data_digest: str, how: Options, trains: bool = True
) -> None:
    """Makes the workdir, writes config.json, and adds this session's versions and hardware to env.json.

    A session that does not train, but has others do it, says so there: it may be of other hardware.

    Raises:
        InvalidInput: the workdir cannot be written, another study has been begun in it meanwhile, or earlier
            runs here were made with other data of the same name.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with claims.held(workdir):
            _describe(workdir, spec, form, data_digest, how, trains)
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        raise InvalidInput([expected("--workdir", str(workdir), allowed, "Choose another.")]) from error


def _describe(workdir: Path, spec: RunSpec, form: str, data_digest: str, how: Options, trains: bool) -> None:
    problems = check(workdir, spec)
    if problems:
        raise InvalidInput(problems)
    sessions = read_json(workdir / "env.json", list, remedy=REMEDY) or []
    session = environment() | {"execution": form, "data_sha256": data_digest}
    session |= {"num_workers": how.num_workers, "fork_width": how.fork_width, "trains": trains}
    last = sessions[-1] if sessions else session
    if last["data_sha256"] != data_digest:
        allowed = f"to hold the data that runs in {workdir} were trained on (SHA-256 {last['data_sha256']})"
        remedy = "It has changed since: restore it, or choose another --workdir."
        raise InvalidInput([expected("data.name", spec.data.name, allowed, remedy)])
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
    write_json(workdir / "config.json", spec.to_dict())
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
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _differences(held: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    flat = [
        {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
        for tree in (held, wanted)
    ]
    names = sorted(flat[0].keys() | flat[1].keys())
    return [
        (name, flat[0].get(name), flat[1].get(name))
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]
