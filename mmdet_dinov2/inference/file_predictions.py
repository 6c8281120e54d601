"""Predictions on images and videos, written to a folder."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..drawing.box_pictures import draw_detections
from ..errors import InputError
from .detector import Detector, ImagePrediction
from .image_inputs import InputFile, Video
from .prediction_files import PredictionFiles, VideoFile, write_picture

# Errors that every other picture would meet too.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


class FilePredictor:
    """Predicts on files, writes the results and draws the pictures, one after the other.

    Args:
        detector: The detector.
        results: Writes the detections.
        pictures: Folder for pictures and videos with boxes; None draws none.
        batch_size: Number of images that the model takes at once.
        score_thr: Detections with a lower score, between 0 and 1, are left out.

    Attributes:
        num_images: Number of images and frames predicted so far.
        problems: A sentence for each file that could not be read.
        not_drawn: Why, for each file that was predicted, but whose picture could not be written.
    """

    def __init__(
        self,
        detector: Detector,
        results: PredictionFiles,
        pictures: Path | None = None,
        batch_size: int = 1,
        score_thr: float = 0.0,
    ) -> None:
        self._detector = detector
        self._results = results
        self._pictures = pictures
        self._options = dict(batch_size=batch_size, score_thr=score_thr)
        self.num_images = 0
        self.problems: list[str] = []
        self.not_drawn: dict[Path, str] = {}

    def predict(
        self,
        files: Sequence[InputFile],
        start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
    ) -> None:
        """Predicts on the images, then on the videos.

        Args:
            files: The files.
            start: Called with a number of images or frames; returns the function to call after
                each of them.
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

    def _predict_video(self, file: InputFile, start: Callable[[int], Callable[[], None]]) -> None:
        try:
            video = Video(file.path)
        except InputError as error:
            self.problems.append(str(error))
            return
        advance = start(len(video))
        out = None
        if self._pictures is not None:
            out = VideoFile(self._pictures / file.picture, video.fps)
        try:
            for index, prediction in enumerate(self._detector.predict_each(video, **self._options)):
                if prediction.sample is None:
                    self.problems.append(f'{file.path}, frame {index}: {prediction.problem}')
                    return
                picture = self._keep(f'{file.name}/{index:06d}', prediction)
                if out is not None and file.path not in self.not_drawn:
                    with self._drawing(file):
                        out.append(picture)
                advance()
        finally:
            if out is not None:
                out.close()

    def _keep(self, name: str, prediction: ImagePrediction) -> np.ndarray | None:
        """Adds a prediction to the results; returns its picture, if pictures are drawn."""
        self._results.add(name, prediction.sample)
        self.num_images += 1
        if self._pictures is None:
            return None
        found = prediction.sample.pred_instances
        return draw_detections(prediction.image, found, self._detector.classes)

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
