"""The published packages of reward models, each in an environment of its own.

They are the reference that the scorers of the main stack are compared with, and the way to models
whose packages cannot live beside current ones. `adapters/` holds what runs in the environments.
"""
