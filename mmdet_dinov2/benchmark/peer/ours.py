"""A detector of this project as a process that `serving` describes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ...export.model import ExportModel
from ...export.onnx_file import write_onnx
from ...inference.reader import Metadata, Reader
from ...peak_memory import PeakMemory
from ..detectors import DetectorSpec, build_detector, build_optimizer
from ..flops import count_flops
from ..workloads import Size, random_batch
from .serving import serve


def build(
    spec: dict, sizes: Mapping[str, Size], batch_size: int, num_boxes: int, seed: int
) -> dict[str, Callable[..., object]]:
    """Builds the detector and its optimizer.

    Args:
        spec: Attributes of a ``DetectorSpec`` on a CPU.
        sizes: Height and width of the images of each shape, by its name.
        batch_size: Images of a training step.
        num_boxes: Boxes in each of them.
        seed: Seed of images and boxes.

    Returns:
        ``train`` and ``forward``, which take a shape and a number of threads; ``forward_exported``,
        which takes a shape and runs an ONNX file of the model in onnxruntime with one thread;
        ``memory``, the peak in MiB so far; ``describe``, which takes a shape.
    """
    memory = PeakMemory('cpu')
    detector = DetectorSpec(**spec)
    model = build_detector(detector)
    optim_wrapper = build_optimizer(model, detector)
    num_classes = model.bbox_head.num_classes
    batches = {
        shape: random_batch([tuple(size)] * batch_size, num_classes, seed, (num_boxes, num_boxes))
        for shape, size in sizes.items()
    }
    inputs = {
        shape: model.data_preprocessor({key: values[:1] for key, values in batch.items()}, False)
        for shape, batch in batches.items()
    }

    def train(shape: str, threads: int) -> None:
        torch.set_num_threads(threads)
        model.train().train_step(dict(batches[shape]), optim_wrapper=optim_wrapper)

    def forward(shape: str, threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.no_grad():
            model.eval()(**inputs[shape], mode='tensor')

    @functools.cache
    def reader() -> Reader:
        exported = ExportModel(model)
        classes = tuple(f'class {number}' for number in range(num_classes))
        metadata = Metadata(
            classes, 'rgb', (0.0,) * 3, (1.0,) * 3, None, 0.3, None, 1, 'fp32', spec['config']
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'model.onnx'
            write_onnx(exported, path, metadata)
            return Reader(path, threads=1, runtime='onnxruntime')

    def forward_exported(shape: str) -> None:
        reader().run(inputs[shape]['inputs'].numpy())

    def describe(shape: str) -> dict:
        # With gradients: torch's counter fails under no_grad if parameters require them.
        flops = count_flops(model, lambda: model.eval()(**inputs[shape], mode='tensor'))
        return dict(parameters=sum(p.numel() for p in model.parameters()), flops=flops.total)

    return dict(
        train=train,
        forward=forward,
        forward_exported=forward_exported,
        memory=memory.mib,
        describe=describe,
    )


if __name__ == '__main__':
    serve(build)
