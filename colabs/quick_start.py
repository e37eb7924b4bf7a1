# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start: when could this network have been pruned?
#
# A ResNet-8 learns 600 handwritten digits. After each of nine epochs a copy of it is *forked*: 97 %
# of its convolution weights are removed, and the rest trains on. At the end you see which epoch was
# best, and which rule would have known.
#
# - **You need** nothing but the package: the digits come with scikit-learn.
# - **It takes** 2 to 5 minutes on 2 CPU cores (2.7 minutes of processor time on an AMD EPYC).
# - **Numbers** are means of 3 seeds. Three seeds do not tell neighbouring epochs apart, and the
#   text below says so where it matters.

# %% [markdown]
# ## Install

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

# %% [markdown]
# ## Choose
#
# Fewer seeds, epochs or forks make it shorter.

# %% tags=["parameters"]
workdir = "runs/quick_start"
seeds = [0, 1, 2]
num_epochs = 40
fork_epochs = [1, 2, 4, 8, 12, 16, 20, 28, 34]

# %% [markdown]
# ## Run
#
# `digits` is one of the configs that come with the package. It holds every key of the experiment,
# and any of them can be changed. Mistakes are reported now, before anything is trained.

# %%
from earlyprune_jax import config, experiment

digits = config.load_file("digits")
changes = {"train.seeds": seeds, "train.num_epochs": num_epochs, "fork.epochs": fork_epochs}
digits.update_from_flattened_dict(changes)
spec = config.resolve(digits)

# %% [markdown]
# One call trains the dense runs, measures signals after every epoch, and trains all forks. It
# returns a text, which a notebook shows with its figures and tables: the verdict and the main
# figure at once, all else on a click. While it runs you see its newest line.

# %%
experiment.run(spec, workdir)

# %% [markdown]
# ## Look
#
# How to read the figure: the x axis is the epoch at which the network was pruned, not the training
# time. The upper panel is the test accuracy at the end, the horizontal line is the network that was
# never pruned. The lower panel has the signals of the dense network at the same epochs.
#
# Shaded are the epochs that may be the best, judged on validation accuracy: no other is better by
# more than chance would make it (95 %). That does not make them good. With three seeds an epoch
# whose accuracies scatter a lot can be shaded too, although their mean is far below the best. More
# seeds leave fewer epochs shaded.
#
# Everything above is also in files. `results.csv` has one row a run. Here is their test accuracy in
# %, by the epoch of pruning; a trunk is a dense network that was never pruned.

# %%
import pandas as pd

results = pd.read_csv(f"{workdir}/results.csv").astype({"fork_epoch": "Int64"})
percents = 100 * results.set_index(["kind", "fork_epoch"])["test_accuracy"]
percents.groupby(level=[0, 1], dropna=False).agg(["mean", "std", "count"]).round(1)

# %% [markdown]
# ## Ask: when, and who would have known?
#
# A *rule* looks at the signals up to now and says "prune" or "wait". Here a few rules are replayed
# on the runs above: what would each have chosen, and what would that have cost? *Regret* is how
# much test accuracy the choice loses against the best fork of the same seed, in points. Baselines
# look at no signal: a rule is worth something only where it beats them. `oracle` is the best fork
# itself, which nobody knows beforehand. A rule that marks a past epoch has a second row, `rewind`:
# the fork at the epoch that it marks. `n` counts the seeds for which there is an answer.

# %%
from earlyprune_jax.analysis import rules

questions = [
    "peak(random_distance)",
    "peak(fisher_trace)",
    "plateau(validation_accuracy)",
    "early_crop(sparsity=0.97)",
]
columns = {"trigger": "rule", "mode": "mode", "epoch_mean": "epoch", "regret_mean": "regret"}
columns |= {"regret_std": "std", "num_evaluated": "n"}
answers = rules.table(workdir, questions).set_index("kind")[list(columns)].rename(columns=columns)
answers[["regret", "std"]] *= 100
for name, missing in {"epoch": "never fired", "regret": "-", "std": "-"}.items():
    answers[name] = [missing if pd.isna(value) else f"{value:.1f}" for value in answers[name]]
pd.options.display.max_colwidth = None  # Rules are shown whole.
answers

# %% [markdown]
# ## Go on
#
# Run the same call again: nothing is trained twice, it only reads what is there. Raise `seeds` to
# `[0, 1, 2, 3, 4]` and run it again: only the new runs are trained. An interrupted run goes on
# where it was.
#
# **Where next**
#
# - [when_to_prune.ipynb](when_to_prune.ipynb): signals and rules in detail, and a run that prunes
#   itself.
# - [masks_in_your_loop.ipynb](masks_in_your_loop.ipynb): masks for your own network and training
#   loop.
# - [cifar100_tpu.ipynb](cifar100_tpu.ipynb): a long run on Colab, with its results on Drive.
# - The same from a terminal: `python -m earlyprune_jax.main --config=digits --workdir=runs/digits`
