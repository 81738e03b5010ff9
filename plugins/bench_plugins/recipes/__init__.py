"""Named recipes for Stable Diffusion 1.5, 2.1 and XL, one YAML file each."""
