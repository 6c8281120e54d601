"""DINOv2 backbones for MMDetection.

Importing the package registers its modules, so a config needs only
``custom_imports = dict(imports=['mmdet_dinov2'])``.
"""

import mmdet_dinov2_mmcv_ops  # noqa: F401  has to come before mmcv's operators

from .environment import explain_import_error, limit_spinning, printed_without
from .version import __version__

limit_spinning()  # has to come before torch

try:
    # mmdet prints that it lacks the datasets of a product that this project does not use.
    with printed_without('Could not import OneDL'):
        from . import data, drawing, engine, evaluation, models
        from .config.own_types import register_names
        from .engine.training import train
        from .inference import load
except (ImportError, TypeError, AttributeError, AssertionError, OSError) as error:
    if (getattr(error, 'name', None) or '').startswith(__name__):
        raise  # an error of this package, not of the environment
    # Packages that do not fit together raise any of these.
    raise ImportError(
        f'mmdet_dinov2 cannot be imported: {explain_import_error(error)}; '
        '`mmdet_dinov2 env` (tools/check_env.py of a checkout) checks the whole environment'
    ) from error

register_names()

__all__ = ['__version__', 'data', 'drawing', 'engine', 'evaluation', 'load', 'models', 'train']
