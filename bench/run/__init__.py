"""A plan, and the walk over it."""
