"""Datasets, their checks, and the order and seeds of samples.

Importing this package registers the datasets and the loading of images.
"""

from .coco_dataset import ClassNameCocoDataset
from .evaluators import fill_evaluator_ann_file
from .findings import Finding, raise_on_errors
from .loading import BadImageError, CheckedLoadImageFromFile
from .preflight import check_config
from .random_tile import RandomTile
from .shapes import generate_shapes
from .shapes_dataset import ShapesDataset
from .tiled_loading import PackTiledInputs, TiledLoadImageFromFile

__all__ = [
    'BadImageError',
    'CheckedLoadImageFromFile',
    'ClassNameCocoDataset',
    'Finding',
    'PackTiledInputs',
    'RandomTile',
    'ShapesDataset',
    'TiledLoadImageFromFile',
    'check_config',
    'fill_evaluator_ann_file',
    'generate_shapes',
    'raise_on_errors',
]
