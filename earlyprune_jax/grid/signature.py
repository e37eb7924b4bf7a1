"""What decides the last bits of a run besides its config: versions, hardware, flags.

The run.json of a run lists under which signatures its epochs were trained. A run that goes on under
the signature under which it began equals an uninterrupted one bit for bit; see docs/scaling.md.
"""

import importlib.metadata
import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax.grid import options as running
from earlyprune_jax.grid.members import Member
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.training.execution import execution_form
from earlyprune_jax.validate import expected

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
JAX_OPTIONS = (
    *("jax_default_matmul_precision", "jax_enable_x64", "jax_default_prng_impl"),
    *("jax_threefry_partitionable", "jax_disable_jit"),
)
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
"""Environment variables."""
FROM = "from_epoch"
"""The key of a signature in run.json that says after which epoch it began to hold."""


def signature() -> dict[str, Any]:
    """Describes this process, its software and its devices.

    Example:
        >>> signature()["jax"] == jax.__version__, signature()["form"] in ("loop", "scan")
        (True, True)
    """
    backend = jax.default_backend()
    return {
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": backend,
        "device": cpu_model() if backend == "cpu" else jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "num_cores": len(running.usable_cores()),
        "form": execution_form(backend),
        **{name: os.environ.get(name, "") for name in FLAGS},
        **{name: str(getattr(jax.config, name, "")) for name in JAX_OPTIONS},
    }


def cpu_model() -> str:
    """Names this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists what differs between two signatures.

    Example:
        >>> differences({"jax": "0.9", "from_epoch": 0}, {"jax": "0.10", "backend": "cpu"})
        ['jax 0.9 -> 0.10']
    """
    return [
        f"{name} {then[name] or 'none'} -> {now[name] or 'none'}"
        for name in now
        if name in then and then[name] != now[name]
    ]


def continued(
    before: Sequence[Mapping[str, Any]], epoch: int, now: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns the signatures of a run that goes on after an epoch.

    Args:
        before: that run.json lists.
        epoch: the last on record that was trained under these.
        now: under which it goes on.

    Returns:
        Those of the epochs there are, each with the epoch after which it began, and this one if
        it is another.

    Example:
        >>> before = [{"from_epoch": 0, "jax": "0.9"}, {"from_epoch": 5, "jax": "0.10"}]
        >>> continued(before, 5, {"jax": "0.9"})
        [{'from_epoch': 0, 'jax': '0.9'}]
        >>> continued(before, 6, {"jax": "0.10"}) == before
        True
    """
    kept = [dict(each) for each in before if each[FROM] < epoch]
    if kept and not differences(kept[-1], now):
        return kept
    return [*kept, {FROM: epoch, **now}]


def inexact(study: Study, members: Iterable[Member], options: Options) -> list[str]:
    """Lists a problem where runs of a study were made under another signature than this session's.

    Args:
        study: whose runs.
        members: that are looked at.
        options: number of workers, which share the cores.
    """
    now, parts = signature(), running.shares(running.usable_cores(), options.num_workers)
    allowed, num_others, found = {len(part) for part in parts}, 0, dict[str, None]()
    for member in members:
        before = (study.records(member).description() or {}).get("executions", ())
        moved = [text for each in before for text in _moved(each, now, allowed)]
        num_others += bool(moved)
        found |= dict.fromkeys(moved)
    if not found:
        return []
    what = f"{num_others} runs were made under another signature: {', '.join(found)}"
    remedy = "Go on where they were made, choose another --workdir, or leave it out."
    return [expected("--require_exact", True, f"to find every run made as here; {what}", remedy)]


def _moved(then: Mapping[str, Any], now: Mapping[str, Any], cores: Collection[int]) -> list[str]:
    num_cores = then["num_cores"] if then["num_cores"] in cores else min(cores)
    return differences(then, {**now, "num_cores": num_cores})
