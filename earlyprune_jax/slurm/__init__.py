"""A study on a Slurm cluster: three job arrays, one after another, through submitit.

submission    what is submitted, what each task does, and what the user is told
job           a task at its limit, and on signals
"""
