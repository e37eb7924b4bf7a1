"""Translation: from the tokens of a sentence to those of its translation.

buckets     a few shapes for pairs of different lengths
decoding    greedy and beam search on any step function
scores      translations compared with their references
task        the task: splits of token ids, model -> Task
"""
