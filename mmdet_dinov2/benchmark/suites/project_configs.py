"""The configs of the project that the suites measure."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError

QUICKSTART = 'dino_dinov2_quickstart'
# Makes the quick start so small that a step takes a moment, to see that everything runs.
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
    """Returns the path of a config of this project.

    Raises:
        InputError: If the package was installed without its configs.
    """
    path = _CONFIGS / f'{name}.py'
    if not path.is_file():
        raise InputError(f'{path} does not exist; run the suites from a checkout of the project')
    return str(path)
