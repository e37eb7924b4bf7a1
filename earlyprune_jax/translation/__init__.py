"""Translation: from the tokens of a sentence to those of its translation.

decoding    greedy and beam search on any step function
"""
