"""Output channels: which are coupled, masks that remove them, and the smaller network."""
