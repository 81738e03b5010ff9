"""Preference pairs: checking them, writing them, and the list of those that a run uses."""
