"""Paper A, figure 1b: ResNet-18 on CIFAR-100, pruned to 80 % sparsity at every 20th epoch of 200.

Claim: pruning near the peak of tr(F), a third of the way through training, costs half a point.
Command: python -m earlyprune_jax.main --config=configs/cifar100.py
Cost: 3 trunks of 200 epochs and 27 forks of 20 to 180 epochs: 3,300 epochs of 390 steps; about
6 GB of checkpoints. An accelerator is needed.
Published (best test top-1 over epochs, n = 3): dense 77.29 +- .15 %; forks at 20, 40, ..., 180:
75.84 76.45 76.68 76.49 76.37 76.03 75.68 74.78 73.37; tr(F) of the conv kernels peaks at 50,
KL_uniform at 62 (14.0 bits).
"""

from ml_collections import ConfigDict

from . import cifar10


def get_config() -> ConfigDict:
    """Gives the form of cifar10.py of this name."""
    return cifar10.get_config("cifar100")
