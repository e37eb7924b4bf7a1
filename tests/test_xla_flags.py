"""Programs have XLA compile rightly; the library leaves the environment as it is. In processes of
their own: XLA reads its flags once."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from earlyprune_jax import xla_flags

SUMS = """
import numpy as np
import jax, jax.numpy as jnp
matrix = np.arange(9, dtype=np.float32).reshape(3, 3)
wrong = 0
for num in 32_769, 40_001:
    rows = np.random.default_rng(0).normal(size=(num, 3)).astype(np.float32)
    sums = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    right = ((rows.astype(np.float64) @ matrix.T.astype(np.float64)) ** 2).sum(1)
    wrong += np.sum(abs(sums - right) > 1e-4 * (1 + right))
print("wrong:", wrong)
"""
PROGRAM = """
import os
from earlyprune_jax import main
def command(arguments):
    print("flags:", os.environ["XLA_FLAGS"])
    exec({code!r}, {{}})
    return 0
main.program(command)
"""
IS_AFFECTED = metadata.version("jaxlib") in xla_flags.MISCOMPILES


def printed(code: str, flags: str = "") -> list[str]:
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(not IS_AFFECTED, reason="this jaxlib is right without a flag")
def test_without_the_flag_this_version_is_wrong():
    assert printed(SUMS)[-1] != "wrong: 0"


def test_in_a_program_sums_of_small_products_are_right():
    other = "--xla_force_host_platform_device_count=1"
    flags, result = printed(PROGRAM.format(code=SUMS), other)[-2:]
    assert flags == f"flags: {other}" + f" {xla_flags.FLAG}=" * IS_AFFECTED
    assert result == "wrong: 0"


def test_a_version_that_may_not_know_the_flag_never_sees_it(monkeypatch):
    monkeypatch.setattr(xla_flags, "version", lambda name: "0.7.2")
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    assert not xla_flags.avoid_miscompilation()
    assert os.environ["XLA_FLAGS"] == "--mine=1"


@pytest.mark.parametrize("given", [f"{xla_flags.FLAG}=dot", "a_file_of_flags"])
def test_a_value_or_a_file_of_flags_that_the_user_has_given_stays(monkeypatch, given):
    monkeypatch.setenv("XLA_FLAGS", given)
    assert not xla_flags.avoid_miscompilation()
    assert os.environ["XLA_FLAGS"] == given


def test_the_library_leaves_the_environment_alone():
    modules = "experiment, main, signals, pruning, grid, slurm"
    code = f"import os; from earlyprune_jax import {modules}; from earlyprune_jax.grid import "
    code += "workers; from earlyprune_jax.slurm import submission; print(os.environ['XLA_FLAGS'])"
    assert printed(code, " ") == [" "]
