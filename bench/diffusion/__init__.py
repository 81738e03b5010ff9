"""The diffusion model seen as a policy: encode, noise, predict, invert, sample."""
