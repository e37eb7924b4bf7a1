"""A study on a Slurm cluster: three job arrays, one after another, through submitit.

options       what a task asks Slurm for
submission    what is submitted, what each task does, and what the user is told
job           a task at its limit, and on signals
"""
