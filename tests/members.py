"""Members of the tests' small experiments, and where they are found on disk."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import jax

from earlyprune_jax.grid import identity
from earlyprune_jax.grid.members import Fork, Member, Online, Trunk
from earlyprune_jax.spec import Setting
from earlyprune_jax.training.checkpoint import CheckpointStore

SETTING = Setting("resnet8", 1.0, "exponential")
"""That of `tiny.tiny_experiment`."""


def trunk(seed: int = 0) -> Trunk:
    return Trunk(SETTING, seed)


def fork(
    epoch: int, rule: str = "paper_a", sparsity: float = 0.5, *, seed: int = 0, replicate: int = 0
) -> Fork:
    return Fork(SETTING, seed, epoch, "magnitude", "global", sparsity, rule, replicate)


def online(sparsity: float = 0.5) -> Online:
    return Online(SETTING, 0, "magnitude", "global", sparsity, "paper_a", 0)


def locate(workdir: Path, member: Member) -> Path:
    """The member's directory, by its axes; there must be exactly one."""
    (found,) = workdir.glob(f"{identity.words(member)}-????????")
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
