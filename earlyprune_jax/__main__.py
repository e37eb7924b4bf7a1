"""python -m earlyprune_jax COMMAND ...: the program `earlyprune`."""

from earlyprune_jax.cli import program

if __name__ == "__main__":
    program()
