"""RF-DETR (`rfdetr`), random weights, as a process that `serving` describes.

It runs as a file, in an environment that has `rfdetr`, and imports nothing of this project but the
files beside it and `peak_memory.py`.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rfdetr import config as settings
from rfdetr.models.lwdetr import build_criterion_from_config, build_model_from_config
from rfdetr.utilities.tensors import NestedTensor
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_PACKAGES = ('rfdetr', 'torch', 'transformers')


def build(
    variant: str, side: int, batch_size: int, num_boxes: int, seed: int
) -> dict[str, Callable[..., object]]:
    """Builds the model, its loss and its optimizer.

    Args:
        variant: 'Nano', 'Small' or 'Medium'.
        side: Height and width of the images in pixels.
        batch_size: Images of a training step.
        num_boxes: Boxes in each of them.
        seed: Seed of weights, images and boxes.

    Returns:
        ``train`` and ``forward``, which take a number of threads; ``forward_exported``, which runs
        an ONNX file of the model in onnxruntime with one thread; ``memory``, the peak in MiB so
        far; ``describe``.
    """
    memory = _own_file('peak_memory.py').PeakMemory('cpu')
    torch.manual_seed(seed)
    model_config = getattr(settings, f'RFDETR{variant}Config')(pretrain_weights=None, device='cpu')
    train_config = settings.TrainConfig(dataset_dir='.', output_dir='.')
    model = build_model_from_config(model_config, train_config)
    criterion, _ = build_criterion_from_config(model_config, train_config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    images = torch.randn(batch_size, 3, side, side)
    targets = [_target(num_boxes, model_config.num_classes) for _ in range(batch_size)]

    def train(threads: int) -> None:
        torch.set_num_threads(threads)
        model.train()
        criterion.train()
        losses = criterion(model(_samples(images), targets), targets)
        weights = criterion.weight_dict
        sum(losses[name] * weights[name] for name in losses if name in weights).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()

    def forward(threads: int) -> None:
        torch.set_num_threads(threads)
        model.eval()
        with torch.no_grad():
            model(_samples(images[:1]))

    @functools.cache
    def session() -> Any:
        import onnxruntime

        copied = copy.deepcopy(model).eval()
        copied.export()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / 'model.onnx')
            # As `rfdetr` exports.
            torch.onnx.export(
                copied, (images[:1],), path, input_names=['input'], opset_version=17, dynamo=False
            )
            return onnxruntime.InferenceSession(path, options, ['CPUExecutionProvider'])

    def forward_exported() -> None:
        session().run(None, {'input': images[:1].numpy()})

    def describe() -> dict:
        """Attention as matrix products, which torch's counter knows."""
        model.eval()
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(_samples(images[:1]))
        return dict(
            parameters=sum(p.numel() for p in model.parameters()),
            flops=counter.get_total_flops(),
            versions={name: metadata.version(name) for name in _PACKAGES},
        )

    return dict(
        train=train,
        forward=forward,
        forward_exported=forward_exported,
        memory=memory.mib,
        describe=describe,
    )


def _samples(images: Tensor) -> NestedTensor:
    return NestedTensor(images, torch.zeros(len(images), *images.shape[2:], dtype=torch.bool))


def _target(num_boxes: int, num_classes: int) -> dict[str, Tensor]:
    sides = 0.05 + 0.4 * torch.rand(num_boxes, 2)
    centers = sides / 2 + (1 - sides) * torch.rand(num_boxes, 2)
    labels = torch.randint(num_classes, (num_boxes,))
    return dict(labels=labels, boxes=torch.cat((centers, sides), 1))


def _own_file(name: str):
    """Imports a file of this project without its package."""
    spec = importlib.util.spec_from_file_location(
        Path(name).stem, Path(__file__).resolve().parents[2] / name
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == '__main__':
    from serving import serve

    serve(build)
