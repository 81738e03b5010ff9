"""The embedded world: a small diffusion model on drawn shapes, with pairs, prompts and scorers.

`grammar` says what captions mean, `draw` what they look like, `perceive` reads pictures,
`population` has tastes; `pretrain`, `pairs`, `train_scorers` build the files in `assets/`, the
first and last by the training loop in `fitting`; the plugins in `plugin` serve them.
"""

from pathlib import Path

PIPELINE = Path(__file__).parent / "assets" / "pipeline"
"""The backbone: a folder that diffusers' StableDiffusionPipeline.from_pretrained reads."""
