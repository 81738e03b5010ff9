"""Images and prompts in, scores out."""
