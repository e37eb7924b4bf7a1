"""The engine: state, optimizer, steps, epochs, checkpoints and records."""
