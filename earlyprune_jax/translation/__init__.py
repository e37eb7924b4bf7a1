"""Translation: from the tokens of a sentence to those of its translation.

buckets     a few shapes for pairs of different lengths
decoding    greedy and beam search on any step function
lines       lines of text through a trained network
scores      translations compared with their references
task        the task: splits of token ids, model -> Task
"""

# `tasks` imports `task`, which imports parts of `tasks`: so any module here may be the first.
from earlyprune_jax import tasks as tasks
