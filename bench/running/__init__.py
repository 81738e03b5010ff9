"""From a recipe to a plan, and from a plan to artefacts."""
