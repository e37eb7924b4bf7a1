"""When to prune, decided from the measured past: rules that are pure functions of a history.

A history is one flat mapping an epoch, as `run_records.as_history` makes it of a run's records:

    >>> measured_values = (10, 39, 62, 78, 86, 88, 86, 81, 75, 67)
    >>> history = [
    ...     {"epoch": epoch, "num_epochs": 30, "fisher_trace": value}
    ...     for epoch, value in enumerate(measured_values, start=1)
    ... ]
    >>> trigger = parse("first(peak(fisher_trace), epoch(20))")
    >>> print(trigger(history[:9]))
    None
    >>> firing = trigger(history)
    >>> firing.epoch, firing.marked_epoch, firing.reason
    (10, 6, 'fisher_trace was largest at epoch 6 (88), 14 % lower at 10 (means of 3 measurements)')

The same rule serves a run that prunes itself (it asks after every epoch, knowing the past only)
and a replay over a finished one: both get the same answer. In a config it is written as the
text that `parse` reads; `RULES` holds every rule by its name there.
"""

# As in JAX: `x as x` says that x is for others.
from earlyprune_jax.triggers.rules import RULES as RULES
from earlyprune_jax.triggers.rules import All as All
from earlyprune_jax.triggers.rules import AtEpoch as AtEpoch
from earlyprune_jax.triggers.rules import EarlyBird as EarlyBird
from earlyprune_jax.triggers.rules import EarlyCrop as EarlyCrop
from earlyprune_jax.triggers.rules import First as First
from earlyprune_jax.triggers.rules import Peak as Peak
from earlyprune_jax.triggers.rules import Plateau as Plateau
from earlyprune_jax.triggers.rules import Threshold as Threshold
from earlyprune_jax.triggers.text import check as check
from earlyprune_jax.triggers.text import label as label
from earlyprune_jax.triggers.text import parse as parse
from earlyprune_jax.triggers.trigger import Firing as Firing
from earlyprune_jax.triggers.trigger import History as History
from earlyprune_jax.triggers.trigger import Trigger as Trigger
from earlyprune_jax.triggers.trigger import fires_at as fires_at
from earlyprune_jax.triggers.trigger import measured as measured
from earlyprune_jax.triggers.trigger import option as option
