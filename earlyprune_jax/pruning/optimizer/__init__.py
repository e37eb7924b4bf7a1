"""Pruning while training: schedules, and an Optax transformation that follows them."""
