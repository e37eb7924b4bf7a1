"""Paper B's family: PreResNets on CIFAR-10, trained t epochs, pruned, fine-tuned; which t is best?

`two_regime.py`: figures 2, 3, 6, 7, 10, PreResNet-20, pruned after every 10th epoch of 160,
fine-tuned 40. Claim: at high sparsity an early t is best, at low sparsity a late one; similarity
between fine-tuning seeds tells the two apart, and random_distance peaks at the best t.
Command: python -m earlyprune_jax.main --config=configs/two_regime.py
Cost: 1 trunk of 160 epochs and 16 x 9 x 3 = 432 forks of 40: 17,440 epochs of 781 steps. An
accelerator is needed (the forks then train in batches).
The report gives no numbers, and no list of prune ratios: these are the densities (5 ... 80 %) of
the follow-up's published grid. The break between its regimes lies at epoch 80, where the trunk's
rate first drops: for the control without that drop add --config.sweep.schedule.name=step,constant,
and for budget-matched baselines
--config.fork.baselines=prune_at_init,prune_at_end,random_at_init,random_at_end; both in the same
workdir, which trains only what is new.

`two_regime.py:depth`: figures 4 (first row), 5a, 9, against depth.
Claim: the deeper the network, the later the best moment to prune it; of deep ones none is early.
Command: python -m earlyprune_jax.main --config=configs/two_regime.py:depth
Cost: 5 trunks of 160 epochs and 5 x 432 forks of 40, on an accelerator. Figure 4 shows
PreResNet-44, the text lists 38 instead: both are here. Other networks that these names mean in
related code: add _lottery or _rethinking to every name.

`two_regime.py:data`: figures 4 (second row), 5b, 9, against the amount of training data.
Claim: the more data, the earlier the best moment to prune; with 1 % of CIFAR-10 none is early.
Command: python -m earlyprune_jax.main --config=configs/two_regime.py:data
Cost: 4 trunks of 160 epochs and 4 x 432 forks of 40 on 1, 5, 10 and 100 % of the images: 1.16 times
the steps of the grid on all of them. Subsets are stratified, the smaller within the larger.

On a CPU, PreResNets of half width on few images; times are of 2 workers on 2 cores, results in
results/README.md:
`two_regime.py:small`: PreResNet-8 on 2,450 images: 1,356 epochs of 38 steps, some 25 minutes.
`two_regime.py:depth_small`: PreResNet-8, -14 and -20 on 2,450 images, without model similarity:
720 epochs of 38 steps, 35 minutes with tests beside.
`two_regime.py:data_small`: PreResNet-8 on 2, 5 and 10 %, without model similarity: 720 epochs of 15
to 76 steps, 18 minutes.
"""

from ml_collections import ConfigDict

from . import cifar10

PAPER_B = {
    "data.std": (0.2023, 0.1994, 0.201),
    "model.name": "preresnet20",
    "train.seeds": (0,),
    "train.num_epochs": 160,
    "train.batch_size": 64,
    "optim.weight_decay": 1e-4,
    "schedule.name": "step",
    "schedule.step_boundaries_epochs": (80, 120),
    "pruning.scopes": ("uniform",),
    "pruning.sparsities": (0.95, 0.94, 0.93, 0.92, 0.9, 0.86, 0.8, 0.6, 0.2),
    "fork.epochs": tuple(range(10, 161, 10)),
    "fork.trigger": "peak(random_distance)",
    "fork.fallback_epoch": 80,
    "fork.retraining": ("constant",),
    "fork.num_replicates": 3,
    "fork.comparisons": ("model_similarity", "disagreement"),
    "signals.names": ("random_distance", "fisher_trace", "kl_uniform"),
    "signals.mask_scope": "uniform",
    "signals.mask_sparsity": 0.95,
}

DEPTHS = ("preresnet20", "preresnet38", "preresnet44", "preresnet56", "preresnet110")

FEW_IMAGES = {
    "data.train_fraction": 0.05,
    "data.validation_fraction": 0.02,
    "data.test_fraction": 0.1,
    "model.name": "preresnet8",
    "model.width_multiplier": 0.5,
    "train.seeds": (0, 1, 2),
    "fork.constant_learning_rate": 0.01,
    "signals.names": ("random_distance", "kl_uniform"),
    "signals.num_examples": 500,
    "signals.max_overhead_fraction": 0.0,
}

FEW_EPOCHS = {
    "train.num_epochs": 20,
    "schedule.step_boundaries_epochs": (10, 15),
    "pruning.sparsities": (0.95, 0.8, 0.4),
    "fork.epochs": (4, 8, 12, 16, 20),
    "fork.fallback_epoch": 10,
    "fork.num_replicates": 1,
    "fork.constant_num_epochs": 4,
    "fork.comparisons": (),
}

FORMS = {
    "": {},
    "small": {
        **FEW_IMAGES,
        "train.num_epochs": 32,
        "schedule.step_boundaries_epochs": (16, 24),
        "pruning.sparsities": (0.95, 0.9, 0.8, 0.6, 0.2),
        "fork.epochs": (4, 8, 12, 16, 20, 24, 32),
        "fork.fallback_epoch": 16,
        "fork.num_replicates": 2,
        "fork.constant_num_epochs": 6,
    },
    "depth": {"sweep": {"model": {"name": DEPTHS}}},
    "depth_small": {
        **FEW_IMAGES,
        **FEW_EPOCHS,
        "sweep": {"model": {"name": ("preresnet8", "preresnet14", "preresnet20")}},
    },
    "data": {"sweep": {"data": {"train_fraction": (0.01, 0.05, 0.1, 1.0)}}},
    "data_small": {
        **FEW_IMAGES,
        **FEW_EPOCHS,
        "sweep": {"data": {"train_fraction": (0.02, 0.05, 0.1)}},
    },
}


def get_config(form: str = "") -> ConfigDict:
    """Gives cifar10.py with paper B's keys; a form changes some more."""
    config = cifar10.get_config()
    config.update_from_flattened_dict(PAPER_B)
    return cifar10.in_form(config, form, FORMS)
