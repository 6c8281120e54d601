"""Builds parameter groups with layer-wise learning-rate decay."""

from __future__ import annotations

import inspect
from functools import partial

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
from torch import nn

from ...errors import InputError
from ...models.vit import detector_layer_depth
from .known_optimizers import check_optimizer_type
from .param_names import clean_param_name

_PARAMWISE_KEYS = (
    'layer_decay_rate',
    'bias_decay_mult',
    'norm_decay_mult',
    'flat_decay_mult',
    'custom_keys',
)
# What mmpretrain's constructor notes about a parameter; it does not separate groups.
_NOTES = ('params', 'param_name', 'layer_id', 'lr_scale')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """Builds a few parameter groups, with layer-wise decay and learning rates by name.

    The learning rate of a parameter at depth d of D is lr * layer_decay_rate ** (D - 1 - d), times
    the ``lr_mult`` of the longest key of ``custom_keys`` that is part of its name (mmpretrain's
    constructor ignores ``lr_mult``). Depths come from ``get_layer_depth`` of the model, else from
    that of its backbone. Parameters with the same settings share a group; frozen parameters are in
    no group.

    Each group lists the names of its parameters as ``names``.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, as for mmpretrain's constructor.
        paramwise_cfg: Any of ``layer_decay_rate`` (1 if absent), ``bias_decay_mult``,
            ``norm_decay_mult``, ``flat_decay_mult`` and ``custom_keys``, as for mmpretrain's
            constructor.

    Raises:
        InputError: If ``paramwise_cfg`` has unknown keys, a key of ``custom_keys`` is not part of
            any name, no parameter is trained, a model without ``get_layer_depth`` should decay, or
            the optimizer does not have a weight decay.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # Without any key mmengine puts all parameters, frozen ones too, into one group.
        paramwise_cfg = dict(paramwise_cfg or {})
        paramwise_cfg.setdefault('layer_decay_rate', 1.0)
        unknown = sorted(set(paramwise_cfg) - set(_PARAMWISE_KEYS))
        if unknown:
            raise InputError(
                f'paramwise_cfg has unknown keys {unknown}; {type(self).__name__} accepts '
                f'{list(_PARAMWISE_KEYS)}'
            )
        super().__init__(_with_weight_decay(optim_wrapper_cfg), paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the optimizer wrapper of a model, wrapped or not."""
        names = [clean_param_name(name) for name, _ in model.named_parameters()]
        for key in self._custom_keys:
            if not any(key in name for name in names):
                raise InputError(
                    f'paramwise_cfg.custom_keys has {key!r}, which is not part of the name of any '
                    'parameter; correct or remove it'
                )
        return super().__call__(model)

    @property
    def _custom_keys(self) -> dict:
        return self.paramwise_cfg.get('custom_keys') or {}

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', get_layer_depth=None
    ) -> None:
        """Adds the groups of a module to a list; see mmpretrain's constructor.

        Args:
            params: The list, extended in place.
            module: The module.
            prefix: Name of the module in the model.
            get_layer_depth: Function that returns the depth of a name and the number of depths;
                None takes that of the model.
        """
        if prefix:
            super().add_params(params, module, prefix, get_layer_depth)
            return
        depth_of = get_layer_depth or getattr(module, 'get_layer_depth', None)
        if depth_of is None and hasattr(getattr(module, 'backbone', None), 'get_layer_depth'):
            depth_of = partial(detector_layer_depth, module.backbone)
        if depth_of is None:
            if self.paramwise_cfg['layer_decay_rate'] != 1.0:
                raise InputError(
                    f'layer_decay_rate={self.paramwise_cfg["layer_decay_rate"]} needs a model with '
                    f'get_layer_depth(name); neither {type(module).__name__} nor its backbone has '
                    'it'
                )
            depth_of = _one_depth
        single: list[dict] = []
        super().add_params(single, module, '', lambda name: depth_of(clean_param_name(name)))
        params.extend(self._merge(single))

    def _merge(self, single: list[dict]) -> list[dict]:
        """Puts parameters with the same settings into one group, in order of appearance."""
        keys = sorted(self._custom_keys, key=lambda key: (-len(key), key))
        groups: dict[str, dict] = {}
        seen = set()
        for entry in single:
            (param,) = entry['params']
            if id(param) in seen:  # shared by several modules
                continue
            seen.add(id(param))
            name = clean_param_name(entry['param_name'])
            settings = {key: value for key, value in entry.items() if key not in _NOTES}
            custom = dict(next((self._custom_keys[key] for key in keys if key in name), {}))
            custom.pop('decay_mult', None)
            settings['lr'] *= custom.pop('lr_mult', 1.0)
            settings.pop('lr_mult', None)
            settings.update(custom)
            group = groups.setdefault(
                repr(sorted(settings.items())), dict(params=[], names=[], **settings)
            )
            group['params'].append(param)
            group['names'].append(name)
        if not groups:
            raise InputError(
                'the model does not have trainable parameters: everything is frozen; set '
                'requires_grad of some'
            )
        return list(groups.values())


def _one_depth(name: str) -> tuple[int, int]:
    return 0, 1


def _with_weight_decay(optim_wrapper_cfg: dict) -> dict:
    """Adds the default weight decay of the optimizer, as mmpretrain's constructor needs one."""
    optimizer = optim_wrapper_cfg.get('optimizer') or {}
    check_optimizer_type(optimizer)
    cls = optimizer.get('type')
    if isinstance(cls, str):
        cls = OPTIMIZERS.get(cls)
    if cls is None or 'weight_decay' in optimizer:
        return optim_wrapper_cfg  # errors in it are reported where it is built
    default = inspect.signature(cls).parameters.get('weight_decay')
    if default is None:
        raise InputError(
            f'optimizer {optimizer["type"]} does not have a weight_decay, which parameter groups '
            'need; use one that has, such as AdamW or SGD'
        )
    return dict(optim_wrapper_cfg, optimizer=dict(optimizer, weight_decay=default.default))
