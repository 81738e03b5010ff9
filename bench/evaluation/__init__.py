"""Scoring images and the statistics of wins."""
