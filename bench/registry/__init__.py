"""Plugins found by entry points, looked up by name, built from specs."""
