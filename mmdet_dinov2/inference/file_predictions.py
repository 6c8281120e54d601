"""Predictions on images, videos and cameras, written to a folder."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import InstanceData

from ..drawing.box_pictures import draw_detections
from ..errors import InputError
from .detector import Detector, ImagePrediction
from .image_inputs import InputFile
from .overlapped import CallsBehind, read_ahead
from .prediction_files import PredictionFiles, VideoFile, write_picture
from .video import Video

# Frames of a video that are decoded ahead, and predictions that wait to be written.
_FRAMES_WAITING = 4
# Longest side of a picture with boxes; a larger one can hardly be opened.
_MAX_DRAWN_SIDE = 4096
# Errors that every other picture would meet too.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


def _drawn_size(prediction: ImagePrediction) -> tuple[np.ndarray, InstanceData]:
    """Returns an image to draw on, reduced if it is large, and the detections in its pixels."""
    image, found = prediction.image, prediction.sample.pred_instances
    if max(image.shape[:2]) > _MAX_DRAWN_SIDE:
        factor = _MAX_DRAWN_SIDE / max(image.shape[:2])
        width, height = (max(1, round(side * factor)) for side in image.shape[1::-1])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if image.shape[:2] != tuple(prediction.sample.ori_shape[:2]):
        height, width = prediction.sample.ori_shape[:2]
        scale = found.bboxes.new_tensor([image.shape[1] / width, image.shape[0] / height])
        found = found.new()
        found.bboxes = found.bboxes * scale.repeat(2)
    return image, found


class FilePredictor:
    """Predicts on files, writes the results and draws the pictures, one after the other.

    The frames of a video are decoded and written by other threads while the model works.

    Args:
        detector: The detector.
        results: Writes the detections.
        pictures: Folder for pictures and videos with boxes; None draws none.
        batch_size: Number of images that the model takes at once.
        score_thr: Detections with a lower score, between 0 and 1, are left out.
        stride: Every how many frames of a video are predicted.

    Attributes:
        num_images: Number of images and frames predicted so far.
        problems: A sentence for each file that could not be read.
        warnings: A sentence for each video with frames that could not be read.
        speeds: For each video, how many frames were predicted, and how many per second.
        not_drawn: Why, for each file that was predicted, but whose picture could not be written.
    """

    def __init__(
        self,
        detector: Detector,
        results: PredictionFiles,
        pictures: Path | None = None,
        batch_size: int = 1,
        score_thr: float = 0.0,
        stride: int = 1,
    ) -> None:
        self._detector = detector
        self._results = results
        self._pictures = pictures
        self._options = dict(batch_size=batch_size, score_thr=score_thr)
        self._stride = stride
        self.num_images = 0
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.speeds: list[str] = []
        self.not_drawn: dict[Path, str] = {}

    def predict(
        self,
        files: Sequence[InputFile],
        start: Callable[[int | None], Callable[[], None]] = lambda total: lambda: None,
    ) -> None:
        """Predicts on the images, then on the videos.

        Args:
            files: The files.
            start: Called with a number of images or frames, None if it is not known; returns the
                function to call after each of them.
        """
        images = [file for file in files if not file.is_video]
        if images:
            self._predict_images(images, start(len(images)))
        for file in files:
            if file.is_video:
                self._predict_video(file, start)

    def _predict_images(self, files: Sequence[InputFile], advance: Callable[[], None]) -> None:
        predictions = self._detector.predict_each((file.path for file in files), **self._options)
        for file, prediction in zip(files, predictions, strict=True):
            if prediction.sample is None:
                self.problems.append(prediction.problem)
            else:
                picture = self._keep(file.name, prediction)
                if picture is not None:
                    with self._drawing(file):
                        write_picture(self._pictures / file.picture, picture)
            advance()

    def _predict_video(
        self, file: InputFile, start: Callable[[int | None], Callable[[], None]]
    ) -> None:
        try:
            video = Video(int(str(file.path)) if file.is_camera else file.path, self._stride)
        except InputError as error:
            self.problems.append(str(error))
            return
        advance = start(video.num_frames)
        out = None
        if self._pictures is not None:
            out = VideoFile(self._pictures / file.picture, video.fps)
        numbers: deque[int] = deque()  # of the frames that are being predicted

        def frames() -> Iterator[np.ndarray]:
            for number, frame in read_ahead(video, _FRAMES_WAITING):
                numbers.append(number)
                yield frame

        unusable: dict[int, str] = {}
        before, begin = self.num_images, time.perf_counter()
        try:
            with CallsBehind(_FRAMES_WAITING) as write:
                for prediction in self._detector.predict_each(frames(), **self._options):
                    number = numbers.popleft()
                    if prediction.sample is None:
                        unusable[number] = prediction.problem
                    else:
                        write(self._write_frame, file, number, prediction, out)
                    advance()
        finally:
            if out is not None:
                out.close()
            unusable.update(dict.fromkeys(video.unreadable, 'it cannot be decoded'))
            predicted = self.num_images - before
            self._sum_up(file, predicted, unusable, time.perf_counter() - begin)
        if not predicted and not unusable:
            self.problems.append(f'{file.path} is not a valid video: it has no frame')

    def _write_frame(
        self, file: InputFile, number: int, prediction: ImagePrediction, out: VideoFile | None
    ) -> None:
        picture = self._keep(f'{file.name}/{number:06d}', prediction)
        if out is not None and file.path not in self.not_drawn:
            with self._drawing(file):
                out.append(picture)

    def _sum_up(
        self, file: InputFile, predicted: int, unusable: dict[int, str], seconds: float
    ) -> None:
        if predicted:
            self.speeds.append(
                f'{file.name}: {predicted} frames, {predicted / seconds:.3g} frames per second'
            )
        if unusable:
            first = min(unusable)
            sentence = (
                f'{file.path}: {len(unusable)} of {predicted + len(unusable)} frames could not be '
                f'read, the first one is number {first} ({unusable[first]})'
            )
            (self.warnings if predicted else self.problems).append(sentence)

    def _keep(self, name: str, prediction: ImagePrediction) -> np.ndarray | None:
        """Adds a prediction to the results; returns its picture, if pictures are drawn."""
        self._results.add(name, prediction.sample)
        self.num_images += 1
        if self._pictures is None:
            return None
        image, found = _drawn_size(prediction)
        return draw_detections(image, found, self._detector.classes)

    @contextmanager
    def _drawing(self, file: InputFile) -> Iterator[None]:
        """Notes a picture that cannot be written; a full disk ends the prediction."""
        try:
            yield
        except (OSError, cv2.error) as error:
            reason = getattr(error, 'strerror', None) or error
            path = self._pictures / file.picture
            if isinstance(error, OSError) and error.errno in _FULL:
                raise InputError(
                    f'{path} cannot be written ({reason}); the results before it are kept; make '
                    'room, or leave the pictures out with --no-pictures'
                ) from error
            self.not_drawn[file.path] = f'{path} cannot be written ({reason})'
