"""DINOv2 backbones for MMDetection.

Importing the package registers its modules, so a config needs only
``custom_imports = dict(imports=['mmdet_dinov2'])``.
"""

from .environment import explain_import_error, printed_without
from .version import __version__

try:
    # mmdet tells everybody that data sets of another product are missing.
    with printed_without('Could not import OneDL'):
        from . import data, drawing, engine, evaluation, models
        from .config.own_types import register_names
        from .inference import load
except (ImportError, TypeError, AttributeError, AssertionError, OSError) as error:
    if (getattr(error, 'name', None) or '').startswith(__name__):
        raise  # a fault of this package, not of the environment
    # Packages that do not fit together fail in any of these ways.
    raise ImportError(
        f'mmdet_dinov2 cannot be imported: {explain_import_error(error)}; '
        'tools/check_env.py looks at the whole environment'
    ) from error

register_names()

__all__ = ['__version__', 'data', 'drawing', 'engine', 'evaluation', 'load', 'models']
