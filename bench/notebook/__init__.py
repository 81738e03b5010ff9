"""Runs, comparisons and boards from Python: typed records with pandas frames."""
