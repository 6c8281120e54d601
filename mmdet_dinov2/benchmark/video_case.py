"""Predictions on a video beside the model alone, for a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config

from ..config.image_size import set_longest_side
from ..inference import Detector
from ..inference.file_predictions import FilePredictor
from ..inference.image_inputs import InputFile
from ..inference.prediction_files import PredictionFiles
from .detectors import DetectorSpec, build_detector
from .timing import measure_in_turns
from .workloads import Size

# Objects that are drawn and written in each frame, about.
DETECTIONS = 20


def video_times(spec: dict, size: Size, num_frames: int, longest_side: int, repeats: int) -> dict:
    """Times `predict` on a video, pictures included, and the model alone on the same frames.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        size: Height and width of the video in pixels.
        num_frames: Its number of frames.
        longest_side: Longest side of the images that the model takes.
        repeats: Number of rounds.

    Returns:
        Seconds of each round of ``predict`` and of ``model``, and the number of ``frames`` that
        were predicted in each.
    """
    model = build_detector(DetectorSpec(**spec))
    classes = [f'class {number}' for number in range(model.bbox_head.num_classes)]
    cfg = Config.fromfile(spec['config'])
    set_longest_side(cfg, longest_side)
    detector = Detector(model, cfg.test_pipeline, classes)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / 'clip.mp4'
        frames = list(_write_video(video, size, num_frames))
        data = [detector.transform(frame) for frame in frames]
        counts = []
        (first,) = detector.predict(frames[0])
        # Of random weights, hardly any score is above the threshold of the command.
        best = first.pred_instances.scores.sort(descending=True).values[:DETECTIONS]
        score_thr = float(best[-1])

        @torch.no_grad()
        def alone() -> None:
            for item in data:
                model.test_step({key: [value] for key, value in item.items()})

        def predict() -> None:
            results = PredictionFiles(Path(folder) / 'out', classes)
            predictor = FilePredictor(
                detector, results, Path(folder) / 'out/pictures', score_thr=score_thr
            )
            (Path(folder) / 'out').mkdir(exist_ok=True)
            predictor.predict([InputFile(video, video.name, video.name)])
            results.close()
            counts.append(predictor.num_images)

        times = measure_in_turns(dict(predict=predict, model=alone), repeats)
    return dict(**times, frames=counts[-repeats:])


def _write_video(path: Path, size: Size, num_frames: int) -> Iterator[np.ndarray]:
    """Writes a moving gradient and yields its frames."""
    height, width = size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 25, (width, height))
    rows, cols = np.mgrid[:height, :width]
    for number in range(num_frames):
        frame = np.stack([(rows + cols + 4 * number * k) % 256 for k in (1, 2, 3)], -1)
        frame = frame.astype(np.uint8)
        writer.write(frame)
        yield frame
    writer.release()
