"""Models in mmdet's registry."""

from .dino import PaddingAwareDINO
from .dinov2 import DINOv2
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['DINOv2', 'PaddingAwareDINO', 'SimpleFeaturePyramid']
