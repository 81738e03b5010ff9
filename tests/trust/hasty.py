"""A plugin module that loads a scorer while it is imported."""

from tests import toy

SCORER = toy.Truth().load("cpu")
