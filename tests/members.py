"""Members of the tests' small experiments, and where they are found on disk."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import data, tasks
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid.members import Fork, Member, Trunk
from earlyprune_jax.references import frozen
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.spec_sections import SECTIONS
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.engine import Engine

SETTING = Setting()
"""That of `tiny.tiny_experiment`, which sweeps nothing."""


def trunk(seed: int = 0) -> Trunk:
    return Trunk(SETTING, seed)


def fork(
    epoch: int,
    retraining: str = "paper_a",
    sparsity: float = 0.5,
    *,
    seed: int = 0,
    replicate: int = 0,
) -> Fork:
    return Fork(SETTING, seed, epoch, "magnitude", "global", sparsity, retraining, replicate)


def online(sparsity: float = 0.5) -> Fork:
    return Fork(SETTING, 0, None, "magnitude", "global", sparsity, "paper_a", 0)


def engine_of(spec: RunSpec, **options: Any) -> Engine:
    """The engine of a spec of one setting, with its data."""
    return engines.Engine(spec, tasks.build(spec, data.read(spec.data)), **options)


def locate(workdir: Path, member: Member) -> Path:
    """The member's directory, by its axes; there must be exactly one."""
    values = json.loads((workdir / "config.json").read_text())
    sections = {
        name: section(**{key: frozen(value) for key, value in values[name].items()})
        for name, section in SECTIONS.items()
    }
    spec = RunSpec(**sections)
    (found,) = workdir.glob(f"{grid_members.directory(spec, member).rpartition('-')[0]}-????????")
    return found


def store(workdir: Path, member: Member) -> CheckpointStore:
    return CheckpointStore(locate(workdir, member) / "checkpoints")


def compilations(work: Callable[[], object]) -> list[str]:
    """The names of the functions that XLA compiles during `work`."""
    names: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record):
            found = re.match(r"Compiling (?:jit\()?([\w<>]+)", record.getMessage())
            if found:
                names.append(found.group(1))

    logger, handler = logging.getLogger("jax"), Collect()
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            work()
    finally:
        logger.removeHandler(handler)
    return names
