"""YAML and command line as one validated, frozen, typed object."""
