"""What a training is about to do, in a few lines."""

from __future__ import annotations

from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset


def describe_training(runner: Runner) -> str:
    """Describes model, data and length of a training, and where its log is.

    Args:
        runner: A runner whose training is about to start.

    Returns:
        A few lines.
    """
    lines = [f'Model: {_describe_model(runner.model)}']
    lines.append(f'Training data: {_describe_dataset(runner.train_dataloader.dataset)}')
    if runner.val_loop is not None:
        lines.append(f'Evaluated on: {_describe_dataset(runner.val_dataloader.dataset)}')
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        length = f'{loop.max_epochs} epochs of {len(runner.train_dataloader)} steps'
        every = f'every {loop.val_interval} epochs'
    else:
        length, every = f'{loop.max_iters} steps', f'every {loop.val_interval} steps'
    if runner.val_loop is not None:
        length += f', evaluated {every}'
    lines.append(f'Length: {length}')
    lines.append(f'Log with environment, hooks and config: {runner.logger.log_file}')
    return '\n'.join(lines)


def _describe_model(model: nn.Module) -> str:
    model = getattr(model, 'module', model)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
    backbone = getattr(model, 'backbone', None)
    parts = type(model).__name__ + (f' on {type(backbone).__name__}' if backbone else '')
    return f'{parts}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained'


def _describe_dataset(dataset: Dataset) -> str:
    inner = dataset
    while not getattr(inner, 'ann_file', None) and hasattr(inner, 'dataset'):
        inner = inner.dataset
    text = f'{len(dataset)} images'
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes:
        text += f' of {len(classes)} classes' if len(classes) > 1 else ' of one class'
    ann_file = getattr(inner, 'ann_file', None)
    return text + (f', {ann_file}' if ann_file else '')
