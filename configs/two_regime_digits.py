"""Paper B's two regimes in miniature: PreResNet-8 on scikit-learn's handwritten digits, on a
laptop.

Claim: with 20 to 80 % removed it hardly matters when, after convergence, a network is pruned; with
90 and 95 % an intermediate epoch is best by 2.7 points. Whether that is more than noise three seeds
cannot say. Command: python -m earlyprune_jax.main --config=configs/two_regime_digits.py --workers=2
Cost: 3 trunks of 40 epochs, 360 forks of 10 and 120 comparisons: 3,720 epochs of 9 steps; on 2 CPU
cores 5.5 minutes in one process with little beside it, 4.8 in 2 workers with much. Fine-tuning runs
at 0.01, not at paper B's 0.001: ten epochs are 90 steps here, not 31,240.
Expected (last-epoch test accuracy of the best epoch, mean over 3 seeds x 3 replicates): 97.9 % at
20 % removed, 97.3 at 50, 92.2 at 80, 82.3 at 90, 63.6 at 95; dense 98.1 +- 0.5 %. See
results/README.md.
"""

from ml_collections import ConfigDict

from . import digits

CHANGES = {
    "model.name": "preresnet8",
    "model.width_multiplier": 0.5,
    "optim.weight_decay": 1e-4,
    "schedule.name": "step",
    "schedule.exponential_decay_rate": 0.97,
    "pruning.scopes": ("uniform",),
    "pruning.sparsities": (0.95, 0.9, 0.8, 0.5, 0.2),
    "fork.epochs": (2, 5, 10, 15, 20, 25, 30, 40),
    "fork.trigger": "peak(random_distance)",
    "fork.retraining": ("constant",),
    "fork.num_replicates": 3,
    "fork.constant_learning_rate": 0.01,
    "fork.comparisons": ("model_similarity", "disagreement"),
    "signals.names": ("random_distance", "kl_uniform"),
    "signals.mask_scope": "uniform",
    "signals.mask_sparsity": 0.95,
}


def get_config() -> ConfigDict:
    """Gives digits.py with the changes above."""
    config = digits.get_config()
    config.update_from_flattened_dict(CHANGES)
    return config
