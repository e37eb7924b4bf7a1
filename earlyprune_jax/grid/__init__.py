"""The grid: which members a study has, what they are called, who trains them, and where.

    members          trunks, forks, comparisons; their names on disk
    plan             the members a spec asks for
    search           the cells that a coarse-to-fine search trains next
    locks            who works on which member
    study            a workdir: its members, how far they are, and which are wanted by now
    pace             how far it is, and how long the rest will take
    scheduler        one process at work: takes what is ready and free, trains it, looks again;
                     how many forks train as one batch
    trainer          how each kind of member is trained; where a pruned run starts
    options          how a study is carried out
    workers          processes of this machine, each bound to its cores

Worker processes, Slurm tasks and commands on other machines are the same thing: processes that
share a workdir. One that is killed costs the epochs since its last checkpoint. Five deaths at one
epoch, or an exception, fail the member, and the next session tries it again. A workdir refuses
other values of what its members have in common; the grid may differ from call to call, a sweep may
grow, and no member is trained twice.
"""
