"""No plugin can change another cell's bytes, star, cost or headline: a plugin for each way."""
