"""The engine: state, optimizer, steps, epochs, checkpoints, records.

    state         what a run is, and its compiled steps; arrays only
    optim, schedules, retraining    directions, learning rates, what a fork trains
    criteria      from a criterion and a trunk's state to the mask of a fork
    engine        a task's steps with the data on the device, shared by runs that compile alike
    execution     the one place that decides how steps run on a backend, and on several devices
    measurement, budget    signals bound to the engine; what steps and signals cost, and may
    loop          epochs trained, measured, saved and recorded, from where they stopped
    checkpoint    whole or not at all, with a SHA-256 over all leaves; the only user of Orbax
    multihost     one run over many processes
    clock         time without compilation

Learning rates are arguments of the step, not constants in it: trunk and forks, however retrained,
share one compilation. After any number of steps of any Optax chain, removed weights and their
moments are exactly 0. `step` counts from the start of the trunk, in forks too. Replicate 0 of a
fork keeps the trunk's key: an unpruned fork of retraining `continue` is the trunk, bit for bit.
Signals are measured in evaluation mode, in float32. On CPU an epoch is a Python loop over the
jitted step, for XLA's CPU backend is some 50 times slower at convolutions inside `lax.scan`; on GPU
and TPU it is a scan. The two forms differ in the last bits; env.json records which one ran.

A run diverges at a non-finite training loss, weight or evaluated metric; that is recorded with
epoch and step, and nothing of that epoch is kept. Its epoch is recorded before its checkpoint is
written; a checkpoint that is missing or damaged is made again from the newest sound one before it.
"""
