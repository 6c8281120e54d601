"""How many boxes of each class the labels promise in an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...data.seeded import SeededDataset, SeededIndex, derive_seed

# Labeled images that are looked at for the boxes of each class per image, and those of which a view
# is made, for how many of the boxes it has.
_NUM_COUNTED, _NUM_VIEWS = 2048, 64


def boxes_per_image(dataset: Any, num_classes: int) -> np.ndarray:
    """Returns how many labeled boxes of each class an image of a dataset has, (classes,).

    Args:
        dataset: A dataset of mmengine, which may wrap others; of a large one, images at regular
            intervals are looked at.
        num_classes: Number of classes.
    """
    rows = _spread(len(dataset), _NUM_COUNTED)
    labels = [label for row in rows for label in _labels_of(dataset, row)]
    return np.bincount(np.array(labels, int), minlength=num_classes) / len(rows)


def boxes_per_view(dataset: SeededDataset, num_classes: int, seed: int) -> np.ndarray:
    """Returns how many labeled boxes of each class the training sees in an image, (classes,).

    A crop or a tile has fewer boxes than its image. The classes have the shares that they have in
    the files, as some views would tell little of rare ones.

    Args:
        dataset: The training data.
        num_classes: Number of classes.
        seed: Seed of the run.
    """
    rows = _spread(len(dataset), _NUM_VIEWS)
    in_files = sum(len(_labels_of(dataset, row)) for row in rows)
    views = (dataset[SeededIndex(row, derive_seed(seed, row))] for row in rows)
    in_views = sum(len(view['data_samples'].gt_instances) for view in views)
    return boxes_per_image(dataset, num_classes) * (in_views / max(in_files, 1))


def _spread(length: int, count: int) -> range:
    """Returns about ``count`` rows at regular intervals."""
    return range(0, length, max(1, length // count))


def _labels_of(dataset: Any, row: int) -> list[int]:
    instances = dataset.get_data_info(row).get('instances', ())
    return [one['bbox_label'] for one in instances if not one.get('ignore_flag')]
