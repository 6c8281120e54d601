"""Pictures of an evaluation."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.structures import DetDataSample
from mmengine.fileio import get
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...data.image_file import decode, read_header
from ...drawing.picture_names import PictureNames
from ...sample_meta import BAD_IMAGES


@HOOKS.register_module()
class ReadableVisualizationHook(DetVisualizationHook):
    """mmdet's ``DetVisualizationHook`` that draws the images as they were loaded.

    Images that cannot be read are left out. Pictures are turned by their EXIF orientation where the
    data set turned them; mmdet's hook always does. Images of the same name in different folders
    get pictures of different names. Arguments are those of mmdet's hook.
    """

    _names: PictureNames | None = None

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draws the first image of a batch, every ``interval`` iterations."""
        step = runner.iter + batch_idx
        readable = _readable(outputs)
        if self.draw and readable and step % self.interval == 0:
            self._draw(readable[0], 'val_img', step)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draws the images of a batch, into files below the folder of the run if asked for."""
        if not self.draw:
            return
        for sample in _readable(outputs):
            self._test_index += 1
            out_file = None
            if self.test_out_dir is not None:
                folder = osp.join(runner.work_dir, runner.timestamp, self.test_out_dir)
                out_file = osp.join(folder, self._file_name(sample.img_path))
            self._draw(sample, 'test_img', self._test_index, out_file)

    def _draw(
        self, sample: DetDataSample, name: str, step: int, out_file: str | None = None
    ) -> None:
        self._visualizer.add_datasample(
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
        """The image as it was loaded, (H, W, 3) BGR."""
        content = get(sample.img_path, backend_args=self.backend_args)
        return decode(content, read_header(content), tuple(sample.ori_shape[1::-1]))

    def _file_name(self, path: str) -> str:
        """Name of the picture of an image: that of the image, numbered where it is taken."""
        if self._names is None:
            self._names = PictureNames()
        return self._names.name_of(path, osp.basename(path))


def _readable(samples: Sequence[DetDataSample]) -> list[DetDataSample]:
    return [sample for sample in samples if BAD_IMAGES not in sample.metainfo]
