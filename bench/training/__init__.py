"""Preference pairs, the one training loop, checkpoints."""
