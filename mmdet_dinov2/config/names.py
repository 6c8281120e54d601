"""Finds names in configs that nothing reads."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence

from mmengine.config import Config
from torch.utils.data import DataLoader

from ..errors import InputError

# Settings that mmengine and this project read besides the arguments of the runner.
OTHER_SETTINGS = (
    'activation_checkpointing',
    'auto_scale_lr',
    'auto_scale_world_size',
    'compile',
    'custom_imports',
    'detect_anomalous_params',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'longest_side',
    'min_epoch_steps',
    'model_wrapper_cfg',
    'own_data',
    'reference_world_size',
    'reproducible',
    'runner_type',
    'sample_data',
    'strategy',
    'sync_bn',
    'unlabeled',
)
# Keys of a dataloader that the runner and its loop remove before one is built.
_LOADER_KEYS = ('num_batch_per_epoch',)
_TRAIN_LOADER_KEYS = ('unlabeled',)


def check_loader_keys(cfg: Config, splits: Sequence[str]) -> None:
    """Checks the keys of dataloaders, which would otherwise fail only when they are built.

    Args:
        cfg: The config.
        splits: Data splits to check: 'train', 'val' or 'test'.

    Raises:
        InputError: If a key is unknown.
    """
    known = {*inspect.signature(DataLoader).parameters, *_LOADER_KEYS}
    for split in splits:
        of_split = known.union(_TRAIN_LOADER_KEYS if split == 'train' else ())
        for key in cfg.get(f'{split}_dataloader') or {}:
            if key not in of_split:
                raise InputError(
                    f'config key {key!r} does not exist on {split}_dataloader'
                    + did_you_mean(key, of_split)
                )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the known name most similar to a wrong one, as the end of a sentence, or ''."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f'; did you mean {close[0]}?' if close else ''
