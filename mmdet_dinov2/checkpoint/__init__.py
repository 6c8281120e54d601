"""Checkpoints: safe reading, published layouts, loading of backbones and detectors."""

from .embedded_config import embedded_config, for_prediction
from .layouts import LAYOUTS, convert_state_dict
from .load_backbone import LoadReport, load_backbone
from .load_detector import check_classes, checkpoint_classes, load_for_fine_tuning, load_state_dict
from .reading import read_checkpoint, state_dict_of, trust_checkpoints

__all__ = [
    'LAYOUTS',
    'LoadReport',
    'check_classes',
    'checkpoint_classes',
    'convert_state_dict',
    'embedded_config',
    'for_prediction',
    'load_backbone',
    'load_for_fine_tuning',
    'load_state_dict',
    'read_checkpoint',
    'state_dict_of',
    'trust_checkpoints',
]
