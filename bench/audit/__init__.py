"""Asking people: a blind page made from a run, and what their votes say."""
