# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # When to prune: signals, rules, a run that decides
#
# A *signal* is a number measured on the dense network after every epoch. A *rule* turns signals
# into "prune now". This notebook measures signals, asks rules, has a network prune itself, and ends
# with the published curves of the paper that proposed two of the signals.
#
# - **You need** nothing but the package.
# - **It takes** 1 to 2 minutes on 2 CPU cores after quick_start.ipynb (0.9 minutes of processor
#   time on an AMD EPYC), and as much longer as that notebook where it has not been run.
# - **Numbers** are of 3 seeds of one small network on one small data set. They show how to ask, not
#   what holds everywhere.

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

# %% tags=["parameters"]
workdir = "runs/quick_start"  # The runs of quick_start.ipynb: what is there is not trained again.
seeds = [0, 1, 2]
num_epochs = 40
fork_epochs = [1, 2, 4, 8, 12, 16, 20, 28, 34]

# %% [markdown]
# ## Signals, and what they should have known
#
# The experiment is that of [quick_start.ipynb](quick_start.ipynb): a dense network, and forks of it
# that were pruned after nine different epochs. Here we look at the signals.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from earlyprune_jax import config, experiment

digits = config.load_file("digits")
changes = {"train.seeds": seeds, "train.num_epochs": num_epochs, "fork.epochs": fork_epochs}
digits.update_from_flattened_dict(changes)
summary = experiment.run(config.resolve(digits), workdir)

# %%
names = {
    "fisher_trace": "tr(F), Fisher trace",
    "kl_uniform_bits": "KL_uniform",
    "random_distance": "random distance",
    "weight_change": "weight change",
}
signals = pd.read_csv(f"{workdir}/signals.csv")
results = pd.read_csv(f"{workdir}/results.csv")
means = signals.groupby("epoch")[list(names)].mean()

figure, (above, below) = plt.subplots(2, figsize=(8, 6), sharex=True, layout="constrained")
forks = 100 * results[results["kind"] == "fork"].groupby("fork_epoch")["test_accuracy"].mean()
forks.plot(ax=above, marker="o", color="black", ylabel="test accuracy (%)")
above.set_title(f"accuracy by the epoch of pruning, mean of {len(seeds)} seeds")
(means / means.max()).rename(columns=names).plot(ax=below, ylabel="share of its maximum")
below.set_xlabel("epoch")
plt.show()
# %% [markdown]
# Does a signal know more than the clock? Spearman's rank correlation of each signal with the
# accuracy of the fork at its epoch: 1 means that the signal ranks the epochs as the forks do.
# `epoch_spearman_mean` is that of the epoch number itself. Where the spread over seeds is as large
# as the value, the signal knows nothing here.
#
# The table holds the signals that were measured at all fork epochs. `mask_distance`, which rules
# such as Early-Bird read, needs the masks of several epochs, so the first forks have none. Its
# number would be over other epochs, and cannot stand beside these.

# %%
correlations = pd.read_csv(f"{workdir}/signal_correlations.csv")
everywhere = correlations["num_epochs"] == correlations["num_epochs"].max()
twice = correlations["signal"] == "kl_uniform_nats"  # The same as in bits.
columns = ["signal", "spearman_mean", "spearman_std", "epoch_spearman_mean", "num_seeds"]
correlations = correlations.loc[everywhere & ~twice, columns]
correlations.sort_values("spearman_mean", ascending=False).round(2)

# %% [markdown]
# ## A rule, asked after every epoch
#
# A rule is a pure function of the past. It gives nothing, or the epoch at which it fires and the
# epoch that it marks. Here it reads a trace of tr(F) that paper A has published: ResNet-18 on
# CIFAR-10, 200 epochs, a mean of 3 seeds.

# %%
from earlyprune_jax import published, triggers

run = published.dense_runs("fisher_trace")[0]
rule = triggers.parse("peak(fisher_trace)")
answers = (rule(run.history[:num_seen]) for num_seen in range(1, run.num_epochs + 1))
print("The largest value comes at epoch", run.peak_epoch)
print(next(filter(None, answers), "never fired"))

# %% [markdown]
# ## Rules replayed
#
# What would each rule have chosen, and what would that have cost? *Regret* is what the choice loses
# on test, in points, against the best fork of the same seed. It is never negative, and the best
# fork is a maximum over noisy numbers: even the best fixed epoch has some. `n` counts the seeds for
# which there is an answer: a rule may never fire, or fire outside of the measured forks.

# %%
from earlyprune_jax.analysis import rules

questions = [
    "peak(fisher_trace, smoothing=3, patience=3)",
    "peak(kl_uniform_bits, smoothing=3, patience=3)",
    "peak(random_distance, smoothing=3, patience=3)",
    "plateau(validation_accuracy, patience=5, min_change=0.02)",
    "early_crop(weight_change, sparsity=0.97)",
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
# ## A run that prunes itself
#
# With `fork.when=trigger` there is no grid. One run a seed trains dense, asks its rule after every
# epoch, prunes itself when the rule fires, and trains on to the same last epoch. Nothing is trained
# twice. If the rule has not fired by `fork.fallback_epoch`, the run is pruned there, and says so.
# The rule below did well when this notebook was written, on these seeds, so this is no independent
# test of it.

# %%
by_itself = {
    "fork.when": "trigger",
    "fork.trigger": "plateau(validation_accuracy, patience=5, min_change=0.02)",
    "fork.fallback_epoch": max(fork_epochs),
}
digits.update_from_flattened_dict(by_itself)
experiment.run(config.resolve(digits), f"{workdir}_by_itself")

# %% [markdown]
# Against the best fork of the grid, seed by seed. Both numbers are of the test set.

# %%
alone = pd.read_csv(f"{workdir}_by_itself/results.csv")
alone = alone[alone["kind"] != "trunk"].set_index("trunk_seed")
best = results[results["kind"] == "fork"].groupby("trunk_seed")["test_accuracy"].max()
comparison = pd.DataFrame({"pruned itself": alone["test_accuracy"], "best fork": best})
comparison["regret"] = comparison["best fork"] - comparison["pruned itself"]
(100 * comparison).round(2)

# %% [markdown]
# ## The published curves
#
# Paper A has published such curves for ResNet-18 on CIFAR-10 and CIFAR-100. Their numbers come with
# the package. 21 distinct curves have the trace of their dense run beside them, but these are seven
# dense runs only, so they are not 21 independent answers. Here is one, and then the regret of
# pruning at the peak of tr(F), in points, beside that of pruning after a fixed part of training.

# %%
import numpy as np

curves = published.accuracy_curves("fisher_trace")
curve = curves[0]
figure, (above, below) = plt.subplots(2, figsize=(8, 5), sharex=True, layout="constrained")
above.plot(curve.fork_epochs, curve.accuracies, marker="o", color="black")
above.set(ylabel="test accuracy (%)", title=f"{curve.dense.dataset}, {curve.sparsity:.0%} removed")
below.plot(curve.dense.epochs, curve.dense.values)
below.axvline(curve.dense.peak_epoch, color="gray")
below.set(xlabel="epoch", ylabel="tr(F)")
plt.show()

# %%


def regret(curve, epoch):
    """Gives what pruning at an epoch loses against the best point of the curve."""
    there = np.interp(epoch, curve.fork_epochs, curve.accuracies)
    return round(max(curve.accuracies) - there, 6)  # The last bits must not decide .115's rounding.


choices = {"at the peak of tr(F)": lambda curve: curve.dense.peak_epoch}
for percent in (10, 30, 50):
    choices[f"after {percent} % of training"] = lambda curve, percent=percent: 2 * percent
choices["at the last fork"] = lambda curve: curve.fork_epochs[-1]
regrets = {
    name: [regret(curve, epoch(curve)) for curve in curves] for name, epoch in choices.items()
}
table = pd.DataFrame(regrets).agg(["mean", "median", "max", "count"]).T
table.round(2).astype({"count": int})

# %% [markdown]
# A peak is known only some epochs later; this table looks it up afterwards. A fixed 30 % of
# training lost least here. Mind that all these accuracies are the best over epochs on the test set,
# and that most curves are of one seed.

# %% [markdown]
# **Where next**
#
# - [docs/signals.md](../docs/signals.md): seven signals, what they cost, all rules, and the same
#   functions for your own loop.
# - [results](../results/README.md): the same question on CIFAR-10, with the answer that no signal
#   beat a fixed fraction of training.
# - [docs/extending.md](../docs/extending.md): a signal or a rule of your own.
# - [cifar100_tpu.ipynb](cifar100_tpu.ipynb): the paper's own experiment, on an accelerator.
