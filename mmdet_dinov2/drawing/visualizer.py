"""mmdet's visualizer with the boxes of this project."""

from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from PIL import Image, ImageDraw

from .box_pictures import draw_detections, label_font_size
from .fonts import default_font


@VISUALIZERS.register_module()
class BoxVisualizer(DetLocalVisualizer):
    """Draws ground truth on the left and predictions on the right, as ``draw_detections`` does.

    mmdet's ``DetLocalVisualizer`` differs from the other pictures of this project in lines,
    colours and letters, and takes seconds for a large photo. Masks are drawn as outlines.

    Args:
        name: Name of the instance, for logs.
        vis_backends: Configs of the backends that store pictures and logged values.
        save_dir: Folder for what the backends store.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        vis_backends: list[dict[str, Any]] | None = None,
        save_dir: str | None = None,
    ) -> None:
        super().__init__(name=name, vis_backends=vis_backends, save_dir=save_dir)

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draws an image and shows or stores it.

        Args:
            name: Name of the picture.
            image: H x W x 3, RGB, 0 to 255.
            data_sample: ``gt_instances`` and ``pred_instances``, each with ``bboxes`` in pixels of
                the image, ``labels`` and perhaps ``masks``; either may be missing.
            draw_gt: Whether to draw ``gt_instances``.
            draw_pred: Whether to draw ``pred_instances``.
            show: Whether to open a window too.
            wait_time: Seconds until the window closes; 0 waits for a key.
            out_file: File to write to instead of passing the picture to the backends.
            pred_score_thr: Only predictions with a higher score are drawn.
            step: Training step, for the backends.
        """
        image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
        sample = DetDataSample() if data_sample is None else data_sample.cpu()
        parts = {}
        if draw_gt and 'gt_instances' in sample:
            parts['ground truth'] = sample.gt_instances
        if draw_pred and 'pred_instances' in sample:
            found = sample.pred_instances
            parts[f'predictions, score above {pred_score_thr:g}'] = found[
                found.scores > pred_score_thr
            ]
        classes = self.dataset_meta.get('classes') or ()
        pictures = [
            draw_detections(image[..., ::-1], found, classes)[..., ::-1] for found in parts.values()
        ]
        if len(pictures) > 1:
            pictures = [_captioned(*pair) for pair in zip(pictures, parts, strict=True)]
        drawn = np.concatenate(pictures, axis=1) if pictures else image
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(drawn[..., ::-1], out_file)
        else:
            self.add_image(name, drawn, step)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Returns the image below a line of text."""
    font = default_font(label_font_size(image.shape[:2]))
    picture = Image.new('RGB', (image.shape[1], image.shape[0] + round(1.6 * font.size)), 'white')
    middle = (picture.width / 2, 0.8 * font.size)
    ImageDraw.Draw(picture).text(middle, text, fill='black', font=font, anchor='mm')
    picture.paste(Image.fromarray(image), (0, picture.height - image.shape[0]))
    return np.asarray(picture)
