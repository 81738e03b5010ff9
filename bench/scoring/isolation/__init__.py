"""Scorers in processes and environments of their own.

`scorer` holds the base class of plugins (`IsolatedScorer`) and `load_in_worker`, `environments`
what an environment is (`EnvironmentSpec`) and where builds lie, `build` makes and checks them,
`client` the parent's side of the talk and `worker` the script that runs on the other side.
"""
