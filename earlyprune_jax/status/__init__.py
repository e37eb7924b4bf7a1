"""How far a study is: what has ended, what runs, what is left, the best so far.

earlyprune status runs/digits [--watch] [--seconds 10]

`reading.read` looks at a workdir, `text.lines` says what it has found. Nothing here imports JAX,
NumPy or pandas: thousands of members are shown within a second.
"""
