"""Comparing anything: images, rows of runs and boards, and checkpoints, over the same prompts."""
