# ---
# jupyter:
#   accelerator: TPU
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A long run on Colab: CIFAR-100, with its results on Drive
#
# This is figure 1b of paper A: ResNet-18 on CIFAR-100, 80 % of its weights removed after every 20th
# epoch of 200, 3 seeds. It takes longer than a Colab session lives. So the work is kept on Drive,
# and the same cell goes on after a disconnect.
#
# - **You need** an accelerator (*Runtime, Change runtime type*) and 6 GB on Drive for checkpoints.
# - **It takes** 3,300 epochs of 390 steps. The cell *How long* below measures what that is on your
#   machine.
# - **Not tried:** this notebook has never run on a TPU, and never on Colab's Drive. What was tried
#   instead: the same cells with a small experiment (digits in place of CIFAR-100) on a CPU, with
#   JAX 0.7.2 and Flax 0.11.2 on Python 3.13, which is what Colab has. Its kernel was killed while
#   it trained, and the notebook run again: every epoch was trained once.

# %% [markdown]
# ## Install
#
# The package names lowest versions only. So `pip install` leaves the JAX of the machine alone,
# which fits its accelerator.

# %%
# Installs the package where it is missing. What is there already, JAX too, stays as it is.
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# Without a clone: what `pip install` takes, such as git+https://HOST/OWNER/earlyprune_jax
REPOSITORY = ""

found = find_spec("earlyprune_jax")
if found is None or found.origin is None:  # A clone's own folder has the name, but no origin.
    folders = [Path("earlyprune_jax").resolve(), Path("..").resolve()]
    clones = [str(path) for path in folders if (path / "earlyprune_jax/__init__.py").is_file()]
    assert REPOSITORY or clones, "Upload a clone of the repository here, or set REPOSITORY."
    # Without -e: a kernel that runs already does not see an editable install.
    command = [sys.executable, "-m", "pip", "install", "--quiet", REPOSITORY or clones[0]]
    subprocess.run(command, check=True)
    sys.modules.pop("earlyprune_jax", None)
    importlib.invalidate_caches()

# %%
import jax

print("JAX", jax.__version__, "on", *jax.devices())

# %% [markdown]
# ## Choose
#
# `changes` are keys of the config, such as `{"train.seeds": [0]}` for one seed.

# %% tags=["parameters"]
workdir = "earlyprune/cifar100"
config_name = "cifar100"
changes = {}
max_minutes = 120

# %% [markdown]
# On Colab the folder lies on Drive, elsewhere here. The images need not be kept: a new machine
# fetches them again, and their checksum is verified.

# %%
if "google.colab" in sys.modules:
    drive = importlib.import_module("google.colab.drive")
    drive.mount("/content/drive")
    workdir = f"/content/drive/MyDrive/{workdir}"
print(workdir)

# %%
from earlyprune_jax import config, experiment
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study

chosen = config.load_file(config_name)
chosen.update_from_flattened_dict(changes)
spec = config.resolve(chosen)
study = Study(spec, Path(workdir))

# %% [markdown]
# ## How long
#
# This times a few steps and writes nothing.

# %%
print(experiment.estimate(study))

# %% [markdown]
# ## Run, and run again
#
# No epoch begins after `max_minutes`, so that the session ends with everything saved. **After a
# disconnect or when time is up: run the notebook again from the top.** Finished runs are read,
# interrupted ones go on from their last checkpoint. Each checkpoint has a checksum: where the last
# one has not reached Drive whole, the run goes back to an older one.
#
# About locks: a run's folder is locked while it trains. The lock belongs to the virtual machine, so
# it is gone when the machine is; nothing has to be deleted, and the empty files named `.lock` mean
# nothing. For the same reason two machines do not see each other's locks on Drive: **run one
# session at a time on a folder.** (Tried on another file system of that kind, FUSE; not on Drive
# itself.)

# %%
experiment.run(spec, workdir, options=Options(max_minutes=max_minutes))

# %%
if experiment.exit_status(study) == experiment.UNFINISHED:
    left, members = study.left(study.wanted_members()), study.wanted_members()
    print(f"{len(left)} of {len(members)} runs are left. Run the notebook again to go on.")
else:
    print("All done.")

# %% [markdown]
# ## Ask: who would have known?
#
# Rules replayed on the forks of this folder that have finished, the best first: the epoch that each
# would have chosen, and what that loses on test against the best fork of the same seed. From a
# terminal it is `earlyprune rules DIR`; `rules.table(workdir)` is the same as a frame.
# [when_to_prune.ipynb](when_to_prune.ipynb) explains rules on an experiment of its own.

# %%
from earlyprune_jax.analysis import rules

_ = rules.main([workdir])

# %% [markdown]
# Drive uploads in the background. Before you close the session yourself, let it finish:

# %%
if "google.colab" in sys.modules:
    drive.flush_and_unmount()

# %% [markdown]
# ## What the paper found
#
# Best test accuracy over epochs, mean of 3 seeds: dense 77.29 +- 0.15 %; pruned at 20, 40, ...,
# 180: 75.84, 76.45, 76.68, 76.49, 76.37, 76.03, 75.68, 74.78, 73.37. tr(F) peaks at epoch 50,
# KL_uniform at 62. Compare with the column `best_test_accuracy` of results.csv.
#
# **Where next**
#
# - [docs/scaling.md](../docs/scaling.md): several accelerators, worker processes, Slurm.
# - [docs/signals.md](../docs/signals.md): all signals and rules; `rules.table(workdir, [...])` asks
#   rules of your own.
# - [results](../results/README.md): what came out of smaller runs on CIFAR-10.
