"""Keeps batches with non-finite losses during a run, and replays them after it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...checkpoint import load_state_dict, read_checkpoint, state_dict_of
from ...data.seeded import derive_seed, seed_everything
from ...errors import InputError
from ...files import write_checkpoint
from ...instance_masks import as_text, decode_mask, encode_masks
from ...sample_meta import UNSURE_BOXES, announce_step
from .training_state import build_checkpoint

_PLAIN = (bool, int, float, str, np.ndarray, np.generic, type(None))
_PARTS = ('gt_instances', 'ignored_instances')


@dataclass
class ReplayReport:
    """What happened when a kept batch was replayed.

    Attributes:
        losses: Terms of the loss of each micro-batch, by name.
        first_module: Name and class of the first module that turns finite inputs into non-finite
            outputs; None if there is no such module.
        gradients: Names of the parameters with a non-finite gradient.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    first_module: str | None = None
    gradients: list[str] = field(default_factory=list)

    @property
    def finite(self) -> bool:
        """Whether all losses, outputs of modules and gradients are finite."""
        losses = (value for terms in self.losses for value in terms.values())
        return self.first_module is None and not self.gradients and all(np.isfinite(list(losses)))


def keep_batch(runner: Runner, data_batch: Mapping[str, Any], path: str | None) -> str | None:
    """Writes a batch and the weights that it met to a file, as plain tensors and numbers.

    All processes must call it, because those of a sharded model send their parts.

    Args:
        runner: A ``StrictRunner`` that trains.
        data_batch: The batch, as the dataloader returns it.
        path: The file, or None if this process has nothing to keep.

    Returns:
        The path, or why the file could not be written; None without a path.
    """
    checkpoint = build_checkpoint(
        runner, save_optimizer=False, save_param_scheduler=False, keep=path is not None
    )
    if path is None:
        return None
    del checkpoint['message_hub']
    checkpoint['meta'] |= dict(
        epoch=runner.epoch, iter=runner.iter, process=get_rank(), autocast=_autocast_dtype(runner)
    )
    checkpoint['batch'] = dict(
        inputs=[image.cpu() for image in data_batch['inputs']],
        samples=[_plain_sample(sample) for sample in data_batch['data_samples']],
    )
    try:
        write_checkpoint(checkpoint, path)
    except (OSError, InputError) as error:  # must not hide why the run stops
        return f'(not written: {error})'
    return path


def replay(cfg: Config, path: str) -> ReplayReport:
    """Repeats the forward and backward pass of a kept batch.

    Args:
        cfg: The config of the run.
        path: A file that :func:`keep_batch` wrote.

    Returns:
        The losses, and where they became non-finite.

    Raises:
        InputError: If the file does not hold a batch, or is that of a different model.
    """
    content = read_checkpoint(path)
    if not isinstance(content.get('batch'), Mapping):
        raise InputError(
            f'{path} does not hold a batch; name a nonfinite_step_N_process_M.pth of a stopped run'
        )
    meta = content['meta']
    model = MODELS.build(copy.deepcopy(cfg.model))  # mmdet adds keys to what it builds from
    load_state_dict(model, state_dict_of(content, path), source=path)
    model.to('cuda' if torch.cuda.is_available() else 'cpu').train()
    samples = [_data_sample(sample) for sample in content['batch']['samples']]
    size = -(-len(samples) // meta['batch']['accumulation'])
    parts = [slice(start, start + size) for start in range(0, len(samples), size)]
    if len(parts) > 1:
        announce_step([samples[part] for part in parts])
    # The seed of the training loop, so that everything random is repeated.
    seed_everything(derive_seed(meta['seed'], meta['iter'], meta['process']))
    report = ReplayReport()
    for part in parts:
        batch = dict(inputs=content['batch']['inputs'][part], data_samples=samples[part])
        with _watch(model, report), _autocast(model, meta['autocast']):
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
        loss, terms = model.parse_losses(losses)
        (loss / len(parts)).backward()
        report.losses.append({name: value.item() for name, value in terms.items()})
    report.gradients = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return report


def _autocast_dtype(runner: Runner) -> str | None:
    """Returns the dtype of the run's autocast by its name in torch; None without autocast."""
    device = next(runner.model.parameters()).device.type
    with runner.optim_wrapper.optim_context(runner.model):
        if not torch.is_autocast_enabled(device):
            return None
        return str(torch.get_autocast_dtype(device)).removeprefix('torch.')


def _autocast(model: nn.Module, dtype: str | None) -> torch.autocast:
    device = next(model.parameters()).device.type
    return torch.autocast(
        device, dtype=getattr(torch, dtype) if dtype else None, enabled=dtype is not None
    )


@contextmanager
def _watch(model: nn.Module, report: ReplayReport) -> Iterator[None]:
    """Notes the first module that turns finite inputs into a non-finite output."""

    def look(name: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if report.first_module is None and not _finite(output) and _finite((args, kwargs)):
                report.first_module = f'{name} ({type(module).__name__})'

        return hook

    handles = [
        module.register_forward_hook(look(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_finite(item) for item in value)
    return True


def _plain_sample(sample: DetDataSample) -> dict:
    """Converts a data sample to dicts of numbers, texts and tensors; leaves out the rest."""
    plain = dict(
        metainfo={key: value for key, value in sample.metainfo.items() if _is_plain(value)}
    )
    for part in _PARTS:
        values = {key: _plain_value(value) for key, value in sample.get(part, {}).items()}
        plain[part] = {key: value for key, value in values.items() if value is not None}
    if UNSURE_BOXES in sample:
        plain[UNSURE_BOXES] = sample.get(UNSURE_BOXES).cpu()
    return plain


def _plain_value(value: Any) -> Tensor | dict | None:
    if isinstance(value, BitmapMasks):
        masks = [as_text(mask) for mask in encode_masks(value.masks)]
        return dict(height=value.height, width=value.width, bitmaps=masks)
    if isinstance(value, PolygonMasks):
        return dict(height=value.height, width=value.width, polygons=value.masks)
    value = getattr(value, 'tensor', value)  # boxes may have a box type of mmdet
    return value.cpu() if isinstance(value, Tensor) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _data_sample(plain: Mapping[str, Any]) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(plain['metainfo']))
    for part in _PARTS:
        values = {key: _value(value) for key, value in plain[part].items()}
        sample.set_field(InstanceData(**values), part, dtype=InstanceData)
    if UNSURE_BOXES in plain:
        sample.set_field(plain[UNSURE_BOXES], UNSURE_BOXES)
    return sample


def _value(plain: Tensor | Mapping[str, Any]) -> Tensor | BitmapMasks | PolygonMasks:
    if isinstance(plain, Tensor):
        return plain
    height, width = plain['height'], plain['width']
    if 'polygons' in plain:
        return PolygonMasks(plain['polygons'], height, width)
    masks = [decode_mask(mask) for mask in plain['bitmaps']]
    shape = (len(masks), height, width)
    return BitmapMasks(np.array(masks, dtype=np.uint8).reshape(shape), height, width)
