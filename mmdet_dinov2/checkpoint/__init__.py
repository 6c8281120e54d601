"""Reads checkpoints safely and loads backbones and detectors, in the published layouts too."""

from .embedded_config import embedded_config, for_prediction
from .load_backbone import LoadReport, load_backbone
from .load_detector import (
    check_classes,
    checkpoint_classes,
    inner_model,
    load_for_fine_tuning,
    load_state_dict,
    own_names,
)
from .reading import read_checkpoint, state_dict_of, trust_checkpoints

__all__ = [
    'LoadReport',
    'check_classes',
    'checkpoint_classes',
    'embedded_config',
    'for_prediction',
    'inner_model',
    'load_backbone',
    'load_for_fine_tuning',
    'load_state_dict',
    'own_names',
    'read_checkpoint',
    'state_dict_of',
    'trust_checkpoints',
]
