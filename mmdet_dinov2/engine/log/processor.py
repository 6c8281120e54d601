"""Console lines that a person can read."""

from __future__ import annotations

import psutil
import torch
from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor

from ...runs.pseudo_labels import LOGGED

_COMPONENTS = ('loss_cls', 'loss_bbox', 'loss_iou')
_NOT_ITEMS = ('time', 'data_time', 'epoch', 'iter', 'memory')


@LOG_PROCESSORS.register_module()
class ReadableLogProcessor(LogProcessor):
    """Shows sums of the losses of DETR-like detectors on the console.

    The dozens of terms of decoder layers and denoising queries go only to the scalar file and to
    other backends. On the console, ``loss_cls``, ``loss_bbox`` and ``loss_iou`` are sums over
    layers and proposals, and ``loss_dn`` is the sum of all terms of the denoising queries. Without
    a GPU, ``memory`` is the resident memory of the process in MiB.

    Args:
        *args: As for mmengine's ``LogProcessor``.
        **kwargs: As for mmengine's ``LogProcessor``.
    """

    def get_log_after_iter(self, runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """Returns values for the backends and a line for the console; see mmengine's class."""
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        if mode != 'train':
            return tag, line
        items = {
            name: value
            for name, value in tag.items()
            if name not in _NOT_ITEMS and not name.endswith('lr')
        }
        text = '  '.join(f'{name}: {self._format(value)}' for name, value in items.items())
        if not line.endswith(text):
            return tag, line
        header = line[: len(line) - len(text)]
        if 'memory' not in tag:
            tag['memory'] = used_memory()
            header += f'memory: {tag["memory"]}  '
        # A line of their own says these.
        items = {name: value for name, value in items.items() if not name.startswith(LOGGED)}
        shown = summarize_losses(items)
        return tag, header + '  '.join(f'{k}: {self._format(v)}' for k, v in shown.items())

    def _format(self, value) -> str:
        return f'{value:.{self.num_digits}f}' if isinstance(value, float) else str(value)


def used_memory() -> int:
    """Returns MiB of this process: the most on the GPU so far, or in memory without a GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return psutil.Process().memory_info().rss // 2**20


def summarize_losses(items: dict) -> dict:
    """Sums the terms of each kind of loss.

    Args:
        items: Values by name, such as ``loss``, ``loss_cls``, ``d0.loss_cls``, ``d0.dn_loss_iou``.

    Returns:
        ``loss``, the sums, and all other values.
    """
    sums: dict = {}
    others: dict = {}
    for name, value in items.items():
        term = name.rsplit('.', 1)[-1]
        component = next((c for c in _COMPONENTS if term.endswith(c)), None)
        if component is None:
            others[name] = value
        else:
            component = 'loss_dn' if term.startswith('dn_') else component
            sums[component] = sums.get(component, 0.0) + value
    loss = {'loss': others.pop('loss')} if 'loss' in others else {}
    order = [name for name in (*_COMPONENTS, 'loss_dn') if name in sums]
    return loss | {name: sums[name] for name in order} | others
