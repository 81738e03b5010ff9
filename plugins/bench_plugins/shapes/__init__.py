"""The embedded world: a small diffusion model on drawn shapes, with pairs, prompts and scorers.

`grammar` says what captions mean, `draw` what they look like, `perceive` reads pictures,
`population` has tastes; `pretrain`, `pairs`, `train_scorers` build the files in `assets/`, which
the plugins in `plugin` serve.
"""
