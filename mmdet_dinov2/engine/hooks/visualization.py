"""Draws pictures of an evaluation."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.structures import DetDataSample
from mmengine.fileio import get
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...data.image_header import read_header
from ...data.image_pixels import decode
from ...drawing.picture_names import PictureNames
from ...sample_meta import BAD_IMAGES


@HOOKS.register_module()
class ReadableVisualizationHook(DetVisualizationHook):
    """mmdet's ``DetVisualizationHook`` that draws the images as they were loaded.

    Images that cannot be read are left out. Pictures are turned by their EXIF orientation only
    where the dataset turned them; mmdet's hook always turns them. Images of the same name in
    different folders get pictures of different names.

    Args:
        *args: As for mmdet's ``DetVisualizationHook``.
        **kwargs: As for mmdet's ``DetVisualizationHook``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._names = PictureNames()
        self._tested = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draws the first readable image of a batch, every ``interval`` iterations."""
        step = runner.iter + batch_idx
        readable = _readable(outputs)
        if self.draw and readable and step % self.interval == 0:
            self._draw(runner, readable[0], 'val_img', step)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draws the images of a batch, with ``test_out_dir`` into files of the run's folder."""
        if not self.draw:
            return
        for sample in _readable(outputs):
            self._tested += 1
            out_file = None
            if self.test_out_dir is not None:
                folder = osp.join(runner.work_dir, runner.timestamp, self.test_out_dir)
                name = self._names.name_of(sample.img_path, osp.basename(sample.img_path))
                out_file = osp.join(folder, name)
            self._draw(runner, sample, 'test_img', self._tested, out_file)

    def _draw(
        self,
        runner: Runner,
        sample: DetDataSample,
        name: str,
        step: int,
        out_file: str | None = None,
    ) -> None:
        runner.visualizer.add_datasample(
            osp.basename(sample.img_path) if self.show else name,
            self._pixels(sample)[..., ::-1],
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            pred_score_thr=self.score_thr,
            out_file=out_file,
            step=step,
        )

    def _pixels(self, sample: DetDataSample) -> np.ndarray:
        """Returns the image as it was loaded, (H, W, 3) uint8, BGR."""
        content = get(sample.img_path, backend_args=self.backend_args)
        return decode(content, read_header(content), tuple(sample.ori_shape[1::-1]))


def _readable(samples: Sequence[DetDataSample]) -> list[DetDataSample]:
    return [sample for sample in samples if BAD_IMAGES not in sample.metainfo]
