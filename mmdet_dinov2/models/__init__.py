"""Models in mmdet's registry."""

from .dino import PaddingAwareDINO
from .dino_head import BatchedDINOHead
from .dinov2 import DINOv2
from .matching import BatchedHungarianAssigner
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = [
    'BatchedDINOHead',
    'BatchedHungarianAssigner',
    'DINOv2',
    'PaddingAwareDINO',
    'SimpleFeaturePyramid',
]
