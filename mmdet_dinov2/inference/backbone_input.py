"""The backbone of a config with its weights, and images in the form it expects."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image
from torch import Tensor

from ..checkpoint import load_state_dict, own_names, read_checkpoint, state_dict_of
from ..data.image_file import read_image
from ..errors import InputError
from ..models import PackedViT


def load_backbone_of(
    cfg: Config, checkpoint: str | Path | None = None
) -> tuple[PackedViT, str | None]:
    """Builds the backbone of a detector config.

    Args:
        cfg: The config.
        checkpoint: Checkpoint of the detector; by default the ``init_cfg`` of the backbone is
            used.

    Returns:
        The backbone and the source of its weights, which is None for random weights.

    Raises:
        InputError: If the config does not have a backbone of this project, or the checkpoint does
            not fit it.
        FileNotFoundError: If the weights do not exist.
    """
    part = cfg.get('model', {}).get('backbone')
    if not part or part.get('type') not in ('DINOv2', 'DINOv3'):
        raise InputError("model.backbone of the config must have the type 'DINOv2' or 'DINOv3'")
    part = copy.deepcopy(part)
    init_cfg = part.get('init_cfg')
    if checkpoint is not None:
        part['init_cfg'] = None
    backbone = MODELS.build(part)
    if checkpoint is None:
        backbone.init_weights()
        return backbone, init_cfg['checkpoint'] if init_cfg else None
    state = own_names(state_dict_of(read_checkpoint(checkpoint), checkpoint), str(checkpoint))
    prefix = 'backbone.'
    state = {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
    if not state:
        raise InputError(
            f'checkpoint {checkpoint} must be that of a detector, but lacks parameters {prefix}*'
        )
    load_state_dict(backbone, state, source=str(checkpoint))
    return backbone, str(checkpoint)


def weights_title(loaded: str | None) -> str:
    """Returns a heading that says which weights were loaded."""
    if loaded is None:
        return 'RANDOM WEIGHTS, nothing was loaded'
    return f'weights of {Path(loaded).name}'


def prepare_image(cfg: Config, path: str | Path, size: int) -> tuple[np.ndarray, Tensor]:
    """Reads an image and normalises it as the detector does.

    Args:
        cfg: The config with the mean and the standard deviation.
        path: Image file.
        size: Length of the longer side in pixels.

    Returns:
        The resized image, RGB in 0..255, shape (H, W, 3), and the input, shape (3, H, W).

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is not a valid image, or the size is not positive.
    """
    if size < 1:
        raise InputError(f'the longer side must have at least 1 pixel, but has {size}')
    image = Image.fromarray(np.ascontiguousarray(read_image(path)[..., ::-1]))
    scale = size / max(image.size)
    image = image.resize(
        [max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC
    )
    picture = np.asarray(image)
    pre = cfg.model.get('data_preprocessor', {})
    channels = torch.tensor(picture.copy()).permute(2, 0, 1).float()
    if not pre.get('bgr_to_rgb'):  # then mean, deviation and weights are in BGR order
        channels = channels.flip(0)
    mean = torch.tensor(pre.get('mean', [0.0] * 3)).view(3, 1, 1)
    std = torch.tensor(pre.get('std', [1.0] * 3)).view(3, 1, 1)
    return picture, (channels - mean) / std
