"""A run's output folder: results, tables, checkpoints, cards and pictures."""
