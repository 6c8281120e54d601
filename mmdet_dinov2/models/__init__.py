"""Models in mmdet's registry, and the transformer that the detector builds."""

from .classification_losses import IABCELoss, MALoss
from .crop_preprocessor import CropDataPreprocessor
from .data_preprocessor import SizedDataPreprocessor
from .dino import PaddingAwareDINO
from .dino_decoder import PaddingAwareDecoder
from .dino_encoder import PaddingAwareEncoder
from .dino_head import BatchedDINOHead
from .dinov2 import DINOv2
from .dinov3 import DINOv3
from .matching import BatchedHungarianAssigner, PositionModulatedCost
from .self_distillation import SelfDistillation
from .simple_feature_pyramid import SimpleFeaturePyramid
from .transformer_layers import DecoderLayer, EncoderLayer
from .tta import PackedTTAModel
from .vit import PackedViT

__all__ = [
    'BatchedDINOHead',
    'BatchedHungarianAssigner',
    'CropDataPreprocessor',
    'DINOv2',
    'DINOv3',
    'DecoderLayer',
    'EncoderLayer',
    'IABCELoss',
    'MALoss',
    'PackedTTAModel',
    'PackedViT',
    'PaddingAwareDINO',
    'PaddingAwareDecoder',
    'PaddingAwareEncoder',
    'PositionModulatedCost',
    'SelfDistillation',
    'SimpleFeaturePyramid',
    'SizedDataPreprocessor',
]
