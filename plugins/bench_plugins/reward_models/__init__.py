"""The field's reward models on current packages, with the numbers of the official code.

`plugin` declares them and imports nothing heavy. Behind it, `clip` and `blip` are the networks,
`pictures` turns images into what they see, `checkpoints` reads weights with every name accounted
for, and `scoring` runs it all in batches.
"""
