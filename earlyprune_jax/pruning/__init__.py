"""Pruning masks as pytrees of booleans, usable from any JAX training loop; docs/pruning.md shows
how.

from earlyprune_jax import pruning
mask = pruning.prune(params, sparsity=0.8)      # True = kept
params = pruning.apply(mask, params)            # removed weights are exactly 0
"""

# As in JAX: `x as x` says that x is for others.
from earlyprune_jax.pruning import layouts as layouts
from earlyprune_jax.pruning import scores as scores
from earlyprune_jax.pruning.account import Ledger as Ledger
from earlyprune_jax.pruning.account import LedgerRow as LedgerRow
from earlyprune_jax.pruning.account import ledger as ledger
from earlyprune_jax.pruning.allocation.allocate import allocate as allocate
from earlyprune_jax.pruning.allocation.allocate import prune as prune
from earlyprune_jax.pruning.allocation.budgets import SCOPES as SCOPES
from earlyprune_jax.pruning.allocation.patterns import NM as NM
from earlyprune_jax.pruning.allocation.patterns import UNSTRUCTURED as UNSTRUCTURED
from earlyprune_jax.pruning.allocation.patterns import Blocks as Blocks
from earlyprune_jax.pruning.channels.compact import compact as compact
from earlyprune_jax.pruning.channels.groups import ChannelGroup as ChannelGroup
from earlyprune_jax.pruning.channels.groups import ChannelGroups as ChannelGroups
from earlyprune_jax.pruning.channels.groups import channel_groups as channel_groups
from earlyprune_jax.pruning.channels.groups import channel_mask as channel_mask
from earlyprune_jax.pruning.costs import macs as macs
from earlyprune_jax.pruning.files import SavedFile as SavedFile
from earlyprune_jax.pruning.files import load_dense as load_dense
from earlyprune_jax.pruning.files import load_sparse as load_sparse
from earlyprune_jax.pruning.files import save_dense as save_dense
from earlyprune_jax.pruning.files import save_sparse as save_sparse
from earlyprune_jax.pruning.layouts import PruningWarning as PruningWarning
from earlyprune_jax.pruning.masks import Overlap as Overlap
from earlyprune_jax.pruning.masks import apply as apply
from earlyprune_jax.pruning.masks import check as check
from earlyprune_jax.pruning.masks import compression as compression
from earlyprune_jax.pruning.masks import count_removed as count_removed
from earlyprune_jax.pruning.masks import density as density
from earlyprune_jax.pruning.masks import from_compression as from_compression
from earlyprune_jax.pruning.masks import from_density as from_density
from earlyprune_jax.pruning.masks import full as full
from earlyprune_jax.pruning.masks import hamming as hamming
from earlyprune_jax.pruning.masks import intersection as intersection
from earlyprune_jax.pruning.masks import moments as moments
from earlyprune_jax.pruning.masks import overlap as overlap
from earlyprune_jax.pruning.masks import sparsity as sparsity
from earlyprune_jax.pruning.optimizer.schedules import Criterion as Criterion
from earlyprune_jax.pruning.optimizer.schedules import Schedule as Schedule
from earlyprune_jax.pruning.optimizer.schedules import iterative as iterative
from earlyprune_jax.pruning.optimizer.schedules import one_shot as one_shot
from earlyprune_jax.pruning.optimizer.schedules import polynomial as polynomial
from earlyprune_jax.pruning.optimizer.state import PruningState as PruningState
from earlyprune_jax.pruning.optimizer.state import get_mask as get_mask
from earlyprune_jax.pruning.optimizer.state import replace_mask as replace_mask
from earlyprune_jax.pruning.optimizer.state import rewound as rewound
from earlyprune_jax.pruning.optimizer.state import trigger as trigger
from earlyprune_jax.pruning.optimizer.transform import transform as transform
from earlyprune_jax.pruning.selection import exclusions as exclusions
from earlyprune_jax.pruning.selection import select as select
from earlyprune_jax.validate import InvalidInput as InvalidInput
