"""Configs that the suites measure."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError

QUICKSTART = 'dino_dinov2_quickstart'
# The quick start made so small that a step takes a moment: only to see that everything runs.
TINY_OPTIONS = {
    'model.backbone.arch.embed_dims': 32,
    'model.backbone.arch.num_layers': 2,
    'model.backbone.arch.num_heads': 2,
    'model.backbone.arch.feedforward_channels': 32,
    'model.encoder.num_layers': 1,
    'model.decoder.num_layers': 1,
}
_CONFIGS = Path(__file__).resolve().parents[3] / 'configs'


def config_path(name: str) -> str:
    """Path of a config of this project.

    Raises:
        InputError: If there are no configs beside the package.
    """
    path = _CONFIGS / f'{name}.py'
    if not path.is_file():
        raise InputError(f'{path} does not exist: the suites run from a checkout of the project')
    return str(path)
