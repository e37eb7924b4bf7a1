"""`cifar100.py`: paper A, figure 1b, ResNet-18 on CIFAR-100: another name of paper_a.py:fig1b."""

from ml_collections import ConfigDict

from . import paper_a


def get_config(scale: str = "full") -> ConfigDict:
    """Gives paper_a.py:fig1b."""
    return paper_a.get_config("fig1b", scale)
