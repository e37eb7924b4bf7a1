"""What a mask removed: counts, warnings, multiply-accumulates."""
