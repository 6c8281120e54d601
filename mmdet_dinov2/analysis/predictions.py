"""Predictions of a detector on a split, read from a file or made with a checkpoint."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..checkpoint.embedded_config import checked_parts, plain_config
from ..checkpoint.reading import read_pickle, trusts_checkpoints
from ..data.annotation_columns import AnnotationColumns
from ..data.dataset_source import iter_dataset_configs
from ..data.evaluators import scores_masks
from ..data.findings import raise_on_errors
from ..data.local_dataset import with_local_datasets
from ..data.preflight import check_config
from ..engine.evaluation_batch import fill_evaluation_batch
from ..engine.runner import StrictRunner
from ..errors import InputError
from ..evaluation.true_masks import true_mask
from ..inference.exported_detector import is_exported, use_exported
from ..instance_masks import as_text, run_lengths

_KEYS = ('image_id', 'category_id', 'bbox', 'score')


def read_predictions(path: str | Path, coco: AnnotationColumns) -> list[dict[str, Any]]:
    """Reads predictions in COCO's result format, or as ``mmdet_dinov2 test --out`` writes them.

    Args:
        path: A ``.json`` file with a list of dicts of ``image_id``, ``category_id``, ``bbox`` (x,
            y, w, h in pixels), ``score`` and perhaps ``segmentation``, or a ``.pkl`` file. Code in
            a pickle file never runs.
        coco: The annotations that the predictions belong to.

    Returns:
        The predictions in COCO's result format, with ``segmentation`` as run lengths if all of them
        have a mask.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file has a different format or belongs to different images.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'predictions {path} do not exist; check the path')
    if path.suffix == '.json':
        try:
            found = json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError) as error:
            raise InputError(f'{path} is not valid JSON ({error})') from error
    elif path.suffix in ('.pkl', '.pickle'):
        found = _from_mmdet(_read_pickle(path), [c['id'] for c in coco.categories], path)
    else:
        raise InputError(f'the name of the predictions {path} must end in .json or .pkl')
    _check(found, coco, path)
    return _with_run_lengths(found, coco, path)


def _with_run_lengths(
    found: list[dict[str, Any]], coco: AnnotationColumns, path: Path
) -> list[dict[str, Any]]:
    """Returns predictions whose masks are run lengths; without masks unless all have one."""
    if not all(entry.get('segmentation') for entry in found):
        return [{k: v for k, v in entry.items() if k != 'segmentation'} for entry in found]
    complete = []
    for index, entry in enumerate(found):
        width, height = map(int, coco.size(coco.image_positions[entry['image_id']]))
        mask, known = true_mask(entry['segmentation'], entry['bbox'], height, width)
        if not known:
            raise InputError(
                f'{path}: the segmentation of entry {index} must be polygons, or run lengths of '
                f'{height} x {width} pixels (height x width) as image {entry["image_id"]} has'
            )
        complete.append(dict(entry, segmentation=mask))
    return complete


def _check(found: Any, coco: AnnotationColumns, path: Path) -> None:
    if not isinstance(found, list):
        raise InputError(
            f'{path} must hold a list of predictions, but holds a {type(found).__name__}'
        )
    images = set(coco.image_ids)
    categories = {category['id'] for category in coco.categories}
    for index, entry in enumerate(found):
        if not isinstance(entry, dict) or any(key not in entry for key in _KEYS):
            raise InputError(
                f'{path}: entry {index} must be a dict with the keys {", ".join(_KEYS)}'
            )
        box = entry['bbox']
        numbers = [*box, entry['score']] if isinstance(box, (list, tuple)) else [None]
        if len(numbers) != 5 or not all(isinstance(n, (int, float)) for n in numbers):
            raise InputError(
                f'{path}: entry {index} must have a bbox of 4 numbers (x, y, w, h) and a score, '
                f'but has {box} and {entry["score"]}'
            )
        ids = entry['image_id'], entry['category_id']
        known = all(isinstance(value, (int, str)) for value in ids)
        if not known or ids[0] not in images or ids[1] not in categories:
            raise InputError(
                f'{path}: entry {index} is of image {entry["image_id"]} and category '
                f'{entry["category_id"]}, which {coco.path} does not have; both files must belong '
                'to the same split'
            )


def _read_pickle(path: Path) -> Any:
    try:
        return read_pickle(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f'{path} is not a file of predictions as `mmdet_dinov2 test --out` writes them '
            f'({error}); give a JSON file in COCO format instead'
        ) from error


def _from_mmdet(samples: Any, category_ids: Sequence[int], path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        for sample in samples:
            predicted = sample['pred_instances']
            rows = zip(
                torch.as_tensor(predicted['bboxes']).double().tolist(),
                torch.as_tensor(predicted['labels']).tolist(),
                torch.as_tensor(predicted['scores']).double().tolist(),
                strict=True,
            )
            if min(map(int, predicted['labels']), default=0) < 0:
                raise IndexError('a label is negative')
            entries = [
                dict(
                    image_id=sample['img_id'],
                    category_id=category_ids[label],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                )
                for (x1, y1, x2, y2), label, score in rows
            ]
            if 'masks' in predicted:
                for entry, mask in zip(entries, run_lengths(predicted['masks']), strict=True):
                    entry['segmentation'] = as_text(mask)
            found += entries
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f'{path} does not hold the predictions of a detector with {len(category_ids)} classes '
            f'({type(error).__name__}: {error})'
        ) from error
    return found


def make_predictions(
    cfg: Mapping[str, Any],
    checkpoint: str | Path,
    data: tuple[str, str | None] | None = None,
) -> list[dict[str, Any]]:
    """Runs a checkpoint on the validation split.

    Args:
        cfg: Resolved config of the run.
        checkpoint: Checkpoint of the run.
        data: Annotation file and folder of images to predict on instead.

    Returns:
        The predictions in COCO's result format, with ``segmentation`` as run lengths if the run
        scores masks.

    Raises:
        InputError: If the data cannot be used, or the checkpoint belongs to a different model.
        FileNotFoundError: If a file does not exist.
    """
    with_masks = scores_masks(Config(dict(cfg)), 'val')
    with tempfile.TemporaryDirectory() as folder:
        init_default_scope('mmdet')
        cfg = _testing(cfg, checkpoint)
        if data is not None:
            _use_data(cfg, *data)
        prefix = str(Path(folder) / 'predictions')
        kinds = ['bbox', 'segm'] if with_masks else ['bbox']
        cfg.test_evaluator = dict(
            type='ClassNameCocoMetric', metric=kinds, format_only=True, outfile_prefix=prefix
        )
        cfg.load_from, cfg.resume = str(checkpoint), False
        cfg.launcher, cfg.work_dir = 'none', folder
        if is_exported(checkpoint):
            use_exported(cfg, checkpoint)
        raise_on_errors(check_config(cfg, ('test',)))
        StrictRunner.from_cfg(cfg).test()
        found = json.loads(Path(f'{prefix}.{kinds[-1]}.json').read_text())
    for entry in found:
        if 'segmentation' in entry:
            counts = entry['segmentation']['counts'].encode()
            entry['segmentation'] = dict(entry['segmentation'], counts=counts)
    return found


def _testing(saved: Mapping[str, Any], source: str | Path) -> Config:
    """Returns a config that tests the model of a run on its validation split.

    The work folder may be somebody else's. So only what is known to run no code is built of its
    config, unless checkpoints are trusted.
    """
    loader = saved.get('val_dataloader') or {}
    content = dict(saved, test_dataloader=loader)
    parts = checked_parts(plain_config(content) or content, source)
    if trusts_checkpoints():
        loaders = dict(test_dataloader=copy.deepcopy(loader))
    else:
        loaders = with_local_datasets(content, str(source), ('test',))
        loaders['test_dataloader']['sampler'] = dict(type='DefaultSampler', shuffle=False)
        for _, dataset in iter_dataset_configs(loaders, 'test'):
            dataset['pipeline'] = copy.deepcopy(parts['pipeline'])
    cfg = Config(dict(default_scope='mmdet', model=parts['model'], **loaders))
    size = (saved.get('train_dataloader') or {}).get('batch_size')
    cfg.train_dataloader = dict(batch_size=size if isinstance(size, int) else 1)
    fill_evaluation_batch(cfg)
    cfg.pop('train_dataloader')
    cfg.test_cfg = dict(type='TestLoop')
    return cfg


def _use_data(cfg: Config, ann_file: str, image_folder: str | None) -> None:
    """Lets the test of a config read other data, in place."""
    datasets = list(iter_dataset_configs(cfg, 'test'))
    if len(datasets) != 1 or image_folder is None:
        raise InputError(
            f'nothing can be predicted on the images of {ann_file}, as the config does not have '
            'exactly one validation dataset, with a folder of images; name their folder with '
            '--img-dir, or predictions with --predictions'
        )
    ((_, dataset),) = datasets
    dataset.pop('indices', None)
    dataset.update(
        data_root='',
        ann_file=os.path.abspath(ann_file),
        data_prefix=dict(img=os.path.abspath(image_folder)),
    )
