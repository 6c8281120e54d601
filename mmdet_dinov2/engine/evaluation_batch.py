"""How many images an evaluation predicts at once, where a config does not say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config

from ..config.tiles import tile_of
from ..models.dino import PaddingAwareDINO


def fill_evaluation_batch(cfg: Config) -> None:
    """Gives the dataloaders of validation and test a batch size if they have none, in place.

    It is that of the training: what fits in memory to train fits to predict. It is 1 for detectors
    whose predictions depend on the other images of a batch, and with tiles, of which each image
    makes batches of its own.
    """
    for split in ('val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, Mapping) and not {'batch_size', 'batch_sampler'} & loader.keys():
            # `test_dataloader = val_dataloader` makes them one object.
            cfg[f'{split}_dataloader'] = {**loader, 'batch_size': _batch_size(cfg)}


def _batch_size(cfg: Config) -> int:
    training = cfg.get('train_dataloader')
    alone = tile_of(cfg.model) is not None
    if isinstance(training, Mapping) and not alone and _predicts_each_image_alone(cfg.model):
        return training.get('batch_size', 1)
    return 1


def _predicts_each_image_alone(model: Any) -> bool:
    """Returns whether predictions for an image do not depend on its batch mates."""
    kind = model.get('type') if isinstance(model, Mapping) else type(model)
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, PaddingAwareDINO)
