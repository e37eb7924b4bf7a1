"""Settings and small experiments shared by all tests."""

import atexit
import gc
import math
import os
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# Processes that tests start, Slurm's tasks too, find own_code.py.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
)
# Before JAX is imported. Experiments of tests compile the same few programs over and over, in this
# process and in those it starts.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="earlyprune-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# On CPU alone: programs of tests compile for longer than they run.
if find_spec("jax_plugins") is None:
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    )
    # XLA aborts at flags that it does not know.
    if version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"

# Processes that tests start need not compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import tiny_experiment

from earlyprune_jax.xla_flags import avoid_miscompilation

# As programs do: runs of this process and of theirs are bitwise the same.
avoid_miscompilation()
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes so many small objects that collecting them took a fortieth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory) -> Path:
    """40 + 16 grey 8x8 images of two classes, bright top or bright bottom, with noise."""
    rng = np.random.default_rng(0)

    def images(num):
        labels = np.arange(num) % 2
        pixels = rng.integers(0, 120, (num, 8, 8, 1))
        pixels[labels == 0, :4] += 100
        pixels[labels == 1, 4:] += 100
        return pixels.astype(np.uint8), labels

    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    (x_train, y_train), (x_test, y_test) = images(40), images(16)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def tiny_config(tiny_npz) -> ConfigDict:
    """A whole experiment in seconds."""
    return tiny_experiment(tiny_npz)


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
    """Frees what a module has compiled: all together take gigabytes, and there is the cache."""
    yield
    statm = Path("/proc/self/statm")
    num_pages = int(statm.read_text().split()[1]) if statm.is_file() else math.inf
    if num_pages * os.sysconf("SC_PAGE_SIZE") > 2 * 2**30:
        jax.clear_caches()


collect_ignore = ["reliability"]  # a program of its own: python -m tests.reliability
SAVEFIG = "matplotlib.figure.Figure.savefig"


@pytest.fixture(scope="module")
def empty_figures():
    """Has figures written as empty files: drawing them takes longer than a small experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAVEFIG, lambda *args, **options: None)
        yield


@pytest.fixture
def empty_figures_here(monkeypatch):
    """The same in a module of which other tests look at figures."""
    monkeypatch.setattr(SAVEFIG, lambda *args, **options: None)
