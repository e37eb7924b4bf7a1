"""Masks and weights as safetensors files."""
