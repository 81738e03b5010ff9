"""Finished artefacts on disk, under keys that hash all that made them."""
