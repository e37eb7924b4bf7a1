"""Pruning masks as pytrees of booleans, usable from any JAX training loop; docs/pruning.md shows
how.

from earlyprune_jax import pruning
mask = pruning.prune(params, sparsity=0.8)      # True = kept
params = pruning.apply(mask, params)            # removed weights are exactly 0
"""

from earlyprune_jax.pruning import scores
from earlyprune_jax.pruning.account import Ledger, LedgerRow, ledger
from earlyprune_jax.pruning.allocation.allocate import PruningWarning, allocate, prune
from earlyprune_jax.pruning.allocation.budgets import SCOPES
from earlyprune_jax.pruning.allocation.patterns import NM, UNSTRUCTURED, Blocks
from earlyprune_jax.pruning.channels.compact import compact
from earlyprune_jax.pruning.channels.groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
    channel_mask,
)
from earlyprune_jax.pruning.costs import macs
from earlyprune_jax.pruning.files import (
    SavedFile,
    encoded_bytes,
    load_dense,
    load_sparse,
    save_dense,
    save_sparse,
)
from earlyprune_jax.pruning.masks import (
    Overlap,
    apply,
    check,
    compression,
    count_removed,
    density,
    from_compression,
    from_density,
    full,
    hamming,
    intersection,
    moments,
    overlap,
    sparsity,
)
from earlyprune_jax.pruning.optimizer.criteria import Criterion
from earlyprune_jax.pruning.optimizer.schedules import Schedule, iterative, one_shot, polynomial
from earlyprune_jax.pruning.optimizer.state import PruningState, get_mask, replace_mask, trigger
from earlyprune_jax.pruning.optimizer.transform import transform
from earlyprune_jax.pruning.selection import exclusions, select
from earlyprune_jax.validate import InvalidInput

__all__ = [
    "NM",
    "SCOPES",
    "UNSTRUCTURED",
    "Blocks",
    "ChannelGroup",
    "ChannelGroups",
    "Criterion",
    "InvalidInput",
    "Ledger",
    "LedgerRow",
    "Overlap",
    "PruningState",
    "PruningWarning",
    "SavedFile",
    "Schedule",
    "allocate",
    "apply",
    "channel_groups",
    "channel_mask",
    "check",
    "compact",
    "compression",
    "count_removed",
    "density",
    "encoded_bytes",
    "exclusions",
    "from_compression",
    "from_density",
    "full",
    "get_mask",
    "hamming",
    "intersection",
    "iterative",
    "ledger",
    "load_dense",
    "load_sparse",
    "macs",
    "moments",
    "one_shot",
    "overlap",
    "polynomial",
    "prune",
    "replace_mask",
    "save_dense",
    "save_sparse",
    "scores",
    "select",
    "sparsity",
    "transform",
    "trigger",
]
