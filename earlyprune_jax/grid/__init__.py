"""The grid of runs: one trunk a seed, and every fork of every axis."""
