"""How unsure a detector is of photos."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..data.record_file import RecordFile, file_key
from ..inference.detector import Detector
from .weights_hash import weights_hash

# Scores below it are background to the detector; a detector of queries has hundreds of them.
MIN_SCORE = 0.05
_DTYPE = np.dtype([('uncertainty', np.float32)])


def score_uncertainty(scores: np.ndarray) -> float:
    """Returns the mean entropy of the scores of an image.

    A score is the probability that there is an object of the class, so the entropy is that of yes
    or no. Averages over detections, as here, are one of the ways of arXiv:1809.09875.

    Args:
        scores: Scores of the detections, shape (N,), in 0..1; those below ``MIN_SCORE`` do not
            count.

    Returns:
        Bits, in 0..1; 0 without a detection that counts.
    """
    scores = np.asarray(scores, dtype=np.float64)
    scores = scores[scores >= MIN_SCORE]
    if not len(scores):
        return 0.0
    sure = np.clip(scores, 1e-12, 1 - 1e-12)
    return float(-(sure * np.log2(sure) + (1 - sure) * np.log2(1 - sure)).mean())


def photo_uncertainty(
    detector: Detector,
    paths: Sequence[str],
    cache: str | os.PathLike,
    batch_size: int = 1,
    start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> np.ndarray:
    """Detects in photos and returns how unsure the detector is of each.

    Args:
        detector: The detector.
        paths: The photos.
        cache: Folder for the results, which later calls with the same detector use.
        batch_size: Number of photos that the detector takes at once.
        start: Called with the number of photos to detect in; returns a function to call after each.

    Returns:
        Bits of :func:`score_uncertainty`, shape (N,), float32; 0 for a photo that cannot be read.
    """
    folder = Path(cache) / f'uncertainty-{weights_hash(detector.model, detector.pipeline)}'
    keys = [file_key(path) for path in paths]
    with RecordFile(folder, _DTYPE) as known:
        missing = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
        advance = start(len(missing))
        waiting: list[tuple[str, float]] = []

        def write() -> None:
            values = np.array([(value,) for _, value in waiting], dtype=_DTYPE)
            known.append([key for key, _ in waiting], values)
            waiting.clear()

        predictions = detector.predict_each(missing.values(), batch_size, MIN_SCORE)
        for key, prediction in zip(missing, predictions, strict=True):
            if prediction.sample is not None:
                scores = prediction.sample.pred_instances.scores.numpy()
                waiting.append((key, score_uncertainty(scores)))
            if len(waiting) >= 16 * batch_size:
                write()
            advance()
        write()
        places = known.places(keys)
        values = np.zeros(len(places), dtype=np.float32)
        values[places >= 0] = known.records()['uncertainty'][places[places >= 0]]
        return values
