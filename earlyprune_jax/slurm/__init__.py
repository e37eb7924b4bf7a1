"""A study on a Slurm cluster: three job arrays, one after another, through submitit.

submission    what is submitted, and what the user is told
arrays        what each task asks for; sbatch, squeue
job           what a task does at its limit and on signals
"""
