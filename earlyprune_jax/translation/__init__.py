"""Translation: from the tokens of a sentence to those of its translation.

buckets     a small set of batch shapes for sentences of different lengths
"""
