"""Puts a user's dataset into a config."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..drawing.palette import class_colours
from ..errors import InputError
from .class_names import class_heads
from .dataset_source import dataset_class, is_coco_format, iter_dataset_configs
from .evaluators import iter_metrics
from .own_data import OwnData, OwnSplit
from .shapes_dataset import ShapesDataset

# Keys of a dataset config that say how images are used, not which images.
_KEPT_KEYS = ('type', 'pipeline', 'filter_cfg', 'test_mode', 'serialize_data', 'max_refetch')
# What a runner uses a split with; all of it goes where the split is missing.
_PARTS_OF_SPLITS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
# Variables of mmdet's dataset configs that nothing reads, which would still be saved.
_VARIABLES = (
    'data_root', 'dataset_type', 'metainfo', 'classes', 'num_classes', 'generate', 'ann_file',
    'data_prefix', 'sample_data',
)  # fmt: skip


def use_own_data(cfg: Config, data: OwnData) -> None:
    """Lets a config train, validate and test on a dataset.

    Classes, number of classes, annotation files and image folders become those of the dataset, and
    the evaluators read its annotations. Without a test split, the val split is tested. What needs a
    split that the dataset lacks becomes ``None``, so that nothing of the dataset of the config is
    left: without a train split, it can only be tested. Pipelines, samplers and everything else
    stay.

    Args:
        cfg: Config of a detector with ``model.bbox_head``, changed in place.
        data: The dataset.

    Raises:
        InputError: If the config or the dataset lacks something.
    """
    heads = [head for _, head in class_heads(cfg)]
    if not heads:
        raise InputError(
            '--data sets num_classes of bbox_head and mask_head, but the model of this config does '
            'not have a bbox_head; write a config for this dataset'
        )
    splits = dict(data.splits)
    tested = 'test' if 'test' in splits else 'val'
    if tested not in splits:
        raise InputError(
            f'{data.root} has no train, val or test split with annotations; add one of them'
        )
    splits['test'] = splits[tested]
    _forget_other_data(cfg)
    for split, keys in _PARTS_OF_SPLITS.items():
        if split not in splits:
            cfg.update(dict.fromkeys(keys))
    metainfo = dict(classes=data.classes, palette=class_colours(len(data.classes)))
    for split, source in splits.items():
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, Mapping):
            raise InputError(
                f'--data needs a config with {split}_dataloader, since it keeps its pipeline and '
                'batch size; use a different config'
            )
        # `test_dataloader = val_dataloader` makes them one object.
        cfg[f'{split}_dataloader'] = copy.deepcopy(loader)
        dataset = cfg[f'{split}_dataloader'].dataset
        cfg[f'{split}_dataloader'].dataset = _replace(dataset, data.root, source, metainfo)
        if split != 'train':
            _let_evaluator_follow(cfg, split)
    for head in heads:
        head['num_classes'] = len(data.classes)
    cfg.own_data = dict(
        path=data.root, num_train_images=splits['train'].num_images if 'train' in splits else 0
    )


def require_training_data(cfg: Config) -> None:
    """Checks that a config has images to train on.

    Raises:
        InputError: If it has none, such as with a dataset without a train split.
    """
    if isinstance(cfg.get('train_dataloader'), Mapping):
        return
    if 'own_data' not in cfg:
        raise InputError('the config has no train_dataloader, so nothing to train on; add it')
    found = ', '.join(
        f'{split} ({cfg[f"{split}_dataloader"].dataset.ann_file})'
        for split in ('val', 'test')
        if cfg.get(f'{split}_dataloader')
    )
    raise InputError(
        f'{cfg.own_data.path} has no train split, only {found}; name an annotation file or a '
        "folder of it 'train', or give a dataset that has one"
    )


def repeat_small_training_set(cfg: Config, images_per_step: int) -> str | None:
    """Repeats the training images within an epoch that would have too few steps.

    Recipes count in epochs: with 30 images, warm-up and schedule would end before anything is
    learned.

    Args:
        cfg: Config that :func:`use_own_data` was called with, changed in place. Its
            ``min_epoch_steps`` is the smallest number of steps in an epoch; without it, nothing is
            repeated.
        images_per_step: Images per optimizer step, over all processes.

    Returns:
        What was done, as a sentence; ``None`` if nothing is repeated.
    """
    wanted = cfg.get('min_epoch_steps')
    num_images = cfg.own_data.num_train_images
    if cfg.train_dataloader.dataset.get('type') == 'RepeatDataset':
        return None  # a config that was saved with the repetitions
    if not wanted or num_images > (wanted - 1) * images_per_step:
        return None
    times = -(-wanted * images_per_step // num_images)
    loader = cfg.train_dataloader
    loader.dataset = dict(type='RepeatDataset', times=times, dataset=loader.dataset)
    return (
        f'the {num_images} training images are repeated {times} times within an epoch, which then '
        f'has {-(-num_images * times // images_per_step)} steps (min_epoch_steps={wanted})'
    )


def _replace(
    dataset: Mapping[str, Any], root: str, source: OwnSplit, metainfo: dict[str, Any]
) -> dict[str, Any]:
    """Returns a dataset config, with its wrappers, for the files and classes of a split."""
    if isinstance(dataset.get('dataset'), Mapping):
        inner = _replace(dataset['dataset'], root, source, metainfo)
        # The number of repetitions was chosen for the number of images.
        return inner if dataset.get('type') == 'RepeatDataset' else dict(dataset, dataset=inner)
    if isinstance(dataset.get('datasets'), (list, tuple)):
        raise InputError(
            f'--data replaces one dataset, but this config combines {len(dataset["datasets"])} '
            f'({dataset.get("type")}); use a different config'
        )
    kept = {key: dataset[key] for key in _KEPT_KEYS if key in dataset}
    cls = dataset_class('dataset', dataset)
    if issubclass(cls, ShapesDataset) or not is_coco_format(cls):
        kept['type'] = 'ClassNameCocoDataset'
    if 'pipeline' in kept:
        kept['pipeline'] = _read_locally(kept['pipeline'])
    return dict(
        kept,
        data_root=root + os.sep,
        ann_file=_below(source.ann_file, root),
        data_prefix=dict(img=_below(source.image_folder, root, folder=True)),
        metainfo=dict(metainfo),
    )


def _read_locally(pipeline: Any) -> Any:
    """Returns transforms that read files from the local disk, where the dataset is."""
    if isinstance(pipeline, Mapping):
        return type(pipeline)(
            {
                key: None if key == 'backend_args' else _read_locally(value)
                for key, value in pipeline.items()
            }
        )
    if isinstance(pipeline, (list, tuple)):
        return type(pipeline)(map(_read_locally, pipeline))
    return pipeline


def _forget_other_data(cfg: Config) -> None:
    """Removes what names the dataset of the config, or where it is stored, from its variables."""
    values = [
        value
        for split in _PARTS_OF_SPLITS
        for _, dataset in iter_dataset_configs(cfg, split)
        for key, value in dataset.items()
        if key in ('data_root', 'ann_file', 'data_prefix', 'metainfo') and value
    ]
    for key in list(cfg):
        if key in _VARIABLES or (isinstance(cfg[key], (str, dict)) and cfg[key] in values):
            cfg.pop(key)
        elif key == 'backend_args':
            cfg[key] = None
        elif key.endswith('_pipeline'):
            cfg[key] = _read_locally(cfg[key])


def _below(path: str, root: str, folder: bool = False) -> str:
    """Returns a path relative to the root if it is inside, else absolute."""
    if Path(path).is_relative_to(root):
        path = os.path.relpath(path, root)
    if path == os.curdir:
        return ''
    return path + os.sep if folder else path


def _let_evaluator_follow(cfg: Config, split: str) -> None:
    """Lets COCO metrics read the annotations of their dataloader; replaces other metrics by one."""
    key = f'{split}_evaluator'
    cfg[key] = copy.deepcopy(cfg.get(key))
    metrics = [metric for _, metric in iter_metrics(cfg, split)]
    if not metrics or any('Coco' not in str(metric.get('type')) for metric in metrics):
        cfg[key] = dict(type='ClassNameCocoMetric')
    for metric in metrics:
        metric.pop('ann_file', None)
        if metric.get('backend_args'):
            metric['backend_args'] = None
