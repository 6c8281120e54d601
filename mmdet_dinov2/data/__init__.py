"""Datasets, their checks, and the order and seeds of samples.

Importing this package registers the datasets, the loading of images and the mixing of samples.
"""

from .box_mixing import BoxCutMix, BoxMixUp, PackWeightedDetInputs
from .coco_dataset import ClassNameCocoDataset
from .crops import PackCrops
from .evaluators import fill_evaluator_ann_file
from .findings import Finding, raise_on_errors
from .loading import BadImageError, CheckedLoadImageFromFile
from .other_samples import MixSamples
from .photo_folder import PhotoFolder
from .preflight import check_config
from .random_tile import RandomTile
from .shapes import generate_shapes
from .shapes_dataset import ShapesDataset
from .tiled_loading import PackTiledInputs, TiledLoadImageFromFile
from .two_views import PackTwoViews

__all__ = [
    'BadImageError',
    'BoxCutMix',
    'BoxMixUp',
    'CheckedLoadImageFromFile',
    'ClassNameCocoDataset',
    'Finding',
    'MixSamples',
    'PackCrops',
    'PackTiledInputs',
    'PackTwoViews',
    'PackWeightedDetInputs',
    'PhotoFolder',
    'RandomTile',
    'ShapesDataset',
    'TiledLoadImageFromFile',
    'check_config',
    'fill_evaluator_ann_file',
    'generate_shapes',
    'raise_on_errors',
]
