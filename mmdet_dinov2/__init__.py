"""DINOv2 backbones for MMDetection.

Importing the package registers its modules, so a config needs only
``custom_imports = dict(imports=['mmdet_dinov2'])``.
"""

from .version import __version__

try:
    from . import data, engine, models
    from .engine import load
except (ImportError, TypeError) as error:
    # transformers 5 makes `import mmdet.models` fail with a TypeError about NoneType.
    raise ImportError(
        f'mmdet_dinov2 cannot be imported ({error}): the installed packages do not fit together; '
        'install the tested set with `pip install -r requirements/lock.txt` and '
        '`pip install --no-build-isolation -r requirements/mminstall.txt` '
        '(transformers must be below 5)'
    ) from error

__all__ = ['__version__', 'data', 'engine', 'load', 'models']
