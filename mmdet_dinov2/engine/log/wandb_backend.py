"""mmengine's backend for Weights & Biases, without the upload of code."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import WandbVisBackend


@VISBACKENDS.register_module()
class NoCodeWandbVisBackend(WandbVisBackend):
    """Logs scalars, pictures and the config, but no code.

    mmengine's backend copies and uploads every Python file below the current folder, those of a
    virtual environment too.
    """

    def add_config(self, config: Config, **kwargs) -> None:
        """Records the config; see mmengine's ``WandbVisBackend.add_config``."""
        change = (self._init_kwargs or {}).get('allow_val_change', False)
        self.experiment.config.update(config.to_dict(), allow_val_change=change)
