"""A trained detector that predicts: ``mmdet_dinov2.load(checkpoint).predict(images)``."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import BaseTTAModel
from mmengine.registry import init_default_scope
from torch import nn

from ..checkpoint import (
    checkpoint_classes,
    embedded_config,
    for_prediction,
    inner_model,
    load_state_dict,
    read_checkpoint,
    state_dict_of,
)
from ..config.files import find_config
from ..config.own_types import own_type
from ..config.tiles import tile_of, tiled_model, tiled_pipeline
from ..config.tta import tta_model, tta_pipeline
from ..data.loading import BadImageError
from ..data.tiled_loading import TiledLoadImageFromFile, shown_pixels
from ..errors import InputError
from .exported_detector import ExportedDetector, is_exported, pipeline_of, read_checked
from .image_sources import ImageLike, list_images, pixels_of
from .overlapped import threads_beside

_NUM_LOADERS = 2


@dataclass(frozen=True)
class ImagePrediction:
    """The detections in an image, or the reason why there are none.

    Attributes:
        source: The image as it was given.
        image: Its pixels, H x W x 3, uint8, BGR, reduced if a large image is not read as a whole;
            None if it could not be read.
        sample: Detections in pixels of the image, the best first; None if it could not be read.
        problem: Why it could not be read, as a sentence; otherwise empty.
        error: Type of the error that says so.
    """

    source: ImageLike
    image: np.ndarray | None = None
    sample: DetDataSample | None = None
    problem: str = ''
    error: type[Exception] = InputError


def load(
    checkpoint: str | os.PathLike,
    config: str | os.PathLike | Config | None = None,
    device: str | torch.device | None = None,
    tta: bool = False,
    tile: int | Mapping[str, Any] | bool | None = None,
) -> Detector:
    """Loads a trained detector, or one that ``mmdet_dinov2 export`` wrote.

    A checkpoint carries its config and classes. No code in it is run: a checkpoint that needs more
    than the known parts of a detector is refused, see :func:`~mmdet_dinov2.checkpoint.\
trust_checkpoints`.

    Args:
        checkpoint: Path or URL of a checkpoint, or path of an exported file, ``.onnx`` or ``.xml``.
        config: Config to use instead of the one in the checkpoint: a file, which is run as Python,
            or the name of one of this project.
        device: Device such as ``'cuda:1'``; by default a GPU, if there is one. The runtime of an
            exported file chooses its own.
        tta: Whether to detect in flipped and scaled views of each image and to merge the
            detections; see :mod:`mmdet_dinov2.config.tta`.
        tile: Size of tiles in pixels, or attributes of a :class:`~mmdet_dinov2.models.tiling.\
Tiling`: images that are larger than a tile are predicted in tiles. None takes the setting of the
            config, False predicts without tiles whatever it is.

    Returns:
        The detector.

    Raises:
        FileNotFoundError: If the checkpoint or the config does not exist.
        InputError: If the checkpoint is damaged, refused, or does not fit the config.
    """
    init_default_scope('mmdet')
    if is_exported(checkpoint):
        if tile is not None and tile is not False:
            raise InputError(
                f'{checkpoint} is an exported file, which does not predict in tiles; name the '
                'checkpoint that it was made from'
            )
        return _load_exported(checkpoint, config, tta)
    content = read_checkpoint(checkpoint)
    if config is None:
        parts = embedded_config(content, checkpoint)
    else:
        cfg = config if isinstance(config, Config) else Config.fromfile(find_config(config))
        parts = for_prediction(cfg, cfg.filename or 'config')
    # mmdet's detectors of two stages read their settings as attributes.
    model_cfg, pipeline = ConfigDict(parts['model']), parts['pipeline']
    if tile is False:
        model_cfg.pop('tile', None)
    elif tile is not None:
        settings = tile if isinstance(tile, Mapping) else dict(size=tile)
        model_cfg = tiled_model(model_cfg, settings)
    if tile_of(model_cfg) is not None:
        if tta:
            raise InputError('tiles and tta do not work together; leave one of them out')
        pipeline = tiled_pipeline(pipeline, tile_of(model_cfg).get('size'))
    if tta:
        model_cfg, pipeline = tta_model(model_cfg), tta_pipeline(pipeline)
    model = MODELS.build(model_cfg)
    detector = inner_model(model)
    load_state_dict(detector, state_dict_of(content, checkpoint), source=str(checkpoint))
    classes = checkpoint_classes(content)
    num_classes = _num_classes(detector)
    if classes is None:
        classes = tuple(f'class_{index}' for index in range(num_classes or 0))
    elif num_classes not in (None, len(classes)):
        raise InputError(
            f'{checkpoint} names {len(classes)} classes, but its model has {num_classes}'
        )
    return Detector(model.to(device or get_device()), pipeline, classes)


def _load_exported(
    file: str | os.PathLike, config: str | os.PathLike | Config | None, tta: bool
) -> Detector:
    metadata = read_checked(file)
    pipeline = pipeline_of(metadata)
    if config is not None:
        cfg = config if isinstance(config, Config) else Config.fromfile(find_config(config))
        pipeline = for_prediction(cfg, cfg.filename or 'config')['pipeline']
    model_cfg = ConfigDict(type='ExportedDetector', file=os.fspath(file))
    if tta:
        model_cfg, pipeline = tta_model(model_cfg), tta_pipeline(pipeline)
    return Detector(MODELS.build(model_cfg), pipeline, metadata.classes)


class Detector:
    """A trained detector with the transforms of its test pipeline.

    Args:
        model: A detector of mmdet or of this project; it is put into evaluation mode.
        pipeline: Configs of the test pipeline; the first one loads an image file.
        classes: Class names, in the order of the labels.

    Attributes:
        model: The detector.
        pipeline: As above.
        classes: Class names, in the order of the labels.

    Raises:
        InputError: If the pipeline does not begin by loading an image file.
    """

    def __init__(
        self, model: nn.Module, pipeline: Sequence[dict[str, Any]], classes: Sequence[str]
    ) -> None:
        first, *others = pipeline
        if not str(first['type']).endswith('LoadImageFromFile'):
            raise InputError(
                f'the test pipeline must begin with LoadImageFromFile, but begins with '
                f'{first["type"]}'
            )
        self.model = model.eval()
        self.pipeline = tuple(pipeline)
        self.classes = tuple(classes)
        self._load_file = TRANSFORMS.build({**first, 'type': own_type(first['type'])})
        others = [cfg for cfg in others if 'LoadAnnotations' not in str(cfg['type'])]
        self._transform = Compose(others)
        self._reads_tiles = isinstance(self._load_file, TiledLoadImageFromFile)

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int = 1,
        score_thr: float = 0.0,
        channel_order: str = 'bgr',
    ) -> list[DetDataSample]:
        """Detects objects.

        Predictions do not depend on the batch size.

        Args:
            images: One or more images: paths, PIL images, or arrays of H x W x 3, uint8. Grey
                arrays of H x W, and a fourth channel of transparency, are taken too.
            batch_size: Number of images that the model takes at once.
            score_thr: Detections with a lower score, between 0 and 1, are left out.
            channel_order: Order of the channels of arrays: 'bgr', as OpenCV and mmcv load them, or
                'rgb'.

        Returns:
            A data sample for each image, on the CPU. Its ``pred_instances`` have ``bboxes`` (n x 4:
            x1, y1, x2, y2 in pixels of the image), ``labels`` (indices of ``classes``) and
            ``scores``, highest first, and ``masks`` if the detector finds them; see
            :mod:`mmdet_dinov2.instance_masks`.

        Raises:
            FileNotFoundError: If a file does not exist.
            InputError: If an image cannot be used, or an argument has an invalid value.
        """
        if channel_order not in ('bgr', 'rgb'):
            raise InputError(f"channel_order must be 'bgr' or 'rgb', but is {channel_order!r}")
        samples = []
        for prediction in self.predict_each(
            list_images(images), batch_size, score_thr, channel_order
        ):
            if prediction.sample is None:
                raise prediction.error(prediction.problem)
            samples.append(prediction.sample)
        return samples

    def predict_each(
        self,
        images: Iterable[ImageLike],
        batch_size: int = 1,
        score_thr: float = 0.0,
        channel_order: str = 'bgr',
    ) -> Iterator[ImagePrediction]:
        """Detects objects in one image after the other; goes on after one that cannot be read.

        Args:
            images: As for :meth:`predict`. They are taken as they are needed.
            batch_size: Number of images that the model takes at once.
            score_thr: Detections with a lower score, between 0 and 1, are left out.
            channel_order: Order of the channels of arrays, 'bgr' or 'rgb'.

        Yields:
            A prediction for each image, in order.

        Raises:
            InputError: If ``batch_size`` is less than 1, or ``score_thr`` is out of range.
        """
        if batch_size < 1:
            raise InputError(f'batch_size must be at least 1, but is {batch_size}')
        if not 0 <= score_thr <= 1:
            raise InputError(f'score_thr must be between 0 and 1, but is {score_thr}')
        waiting: list[tuple[ImagePrediction, dict | None]] = []
        for prepared in self._prepare_ahead(images, batch_size, channel_order):
            waiting.append(prepared)
            if sum(data is not None for _, data in waiting) == batch_size:
                yield from self._finish(waiting, score_thr)
                waiting = []
        yield from self._finish(waiting, score_thr)

    def transform(self, image: ImageLike, channel_order: str = 'bgr') -> dict[str, Any]:
        """Returns what the test pipeline makes of an image.

        Args:
            image: As for :meth:`predict`.
            channel_order: Order of the channels of arrays, 'bgr' or 'rgb'.

        Returns:
            ``inputs``, the resized image (3, H, W), uint8, and ``data_samples`` with its metadata.

        Raises:
            FileNotFoundError: If the file does not exist.
            InputError: If the image cannot be used.
        """
        prediction, data = self._prepare(image, channel_order)
        if data is None:
            raise prediction.error(prediction.problem)
        return data

    def _prepare_ahead(
        self, images: Iterable[ImageLike], batch_size: int, channel_order: str
    ) -> Iterator[tuple[ImagePrediction, dict | None]]:
        """Loads the images of the next batch while the model works on one."""
        # Of large images, only the next one is in memory beside the one that is predicted.
        ahead = 1 if self._reads_tiles else 2 * batch_size
        with threads_beside(1 if self._reads_tiles else _NUM_LOADERS) as pool:
            queue: deque = deque()
            for image in images:
                queue.append(pool.submit(self._prepare, image, channel_order))
                if len(queue) > ahead:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()

    def _prepare(
        self, source: ImageLike, channel_order: str
    ) -> tuple[ImagePrediction, dict | None]:
        try:
            if isinstance(source, (str, os.PathLike)):
                loaded = self._from_file(os.fspath(source))
            else:
                image = pixels_of(source, channel_order)
                shape = image.shape[:2]
                loaded = dict(img=image, img_path=None, img_shape=shape, ori_shape=shape)
                if self._reads_tiles:
                    loaded = self._load_file(loaded)
            data = self._transform(dict(loaded))
            if isinstance(self.model, ExportedDetector):
                self.model.check_size(data['data_samples'].img_shape[:2], loaded['img_path'])
            return ImagePrediction(source, shown_pixels(loaded)), data
        except (InputError, FileNotFoundError) as error:
            return ImagePrediction(source, problem=str(error), error=type(error)), None
        except cv2.error as error:
            problem = f'an image of {loaded["img"].shape[:2]} pixels cannot be resized'
            if isinstance(source, (str, os.PathLike)):
                problem = f'{source}: {problem}'
            return ImagePrediction(source, problem=f'{problem} ({error.err or error})'), None

    def _from_file(self, path: str) -> dict[str, Any]:
        if '://' in path:
            raise InputError(f'{path} is not a file but a URL; download it first')
        if os.path.isdir(path):
            raise InputError(f'{path} is not a file but a folder; name the files in it')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'image {path} does not exist; check the path')
        try:
            return self._load_file(dict(img_path=path))
        except BadImageError as error:
            raise InputError(f'{path} is not a valid image ({error.reason})') from error
        except Exception as error:  # loading of a different project
            reason = ' '.join(str(error).split())
            raise InputError(f'{path} is not a valid image ({reason})') from error

    @torch.no_grad()
    def _finish(
        self, prepared: Sequence[tuple[ImagePrediction, dict | None]], score_thr: float
    ) -> Iterator[ImagePrediction]:
        batch = [data for _, data in prepared if data is not None]
        samples: Iterator[DetDataSample] = iter(())
        if batch:
            data = {key: [d[key] for d in batch] for key in ('inputs', 'data_samples')}
            if isinstance(self.model, BaseTTAModel):  # it takes a list for each view
                data = {key: list(zip(*images, strict=True)) for key, images in data.items()}
            samples = iter(self.model.test_step(data))
        for prediction, data in prepared:
            if data is None:
                yield prediction
                continue
            sample = next(samples).cpu()
            found = sample.pred_instances
            sample.pred_instances = found[found.scores >= score_thr]
            yield ImagePrediction(prediction.source, prediction.image, sample)


def _num_classes(model: nn.Module) -> int | None:
    """Returns the number of classes of a detector of mmdet, None if it does not say."""
    head = getattr(model, 'bbox_head', None)
    if head is None:
        head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if isinstance(head, nn.ModuleList):  # one for each stage of a cascade
        head = head[0]
    if head is None:
        return getattr(getattr(model, 'panoptic_head', None), 'num_things_classes', None)
    return getattr(head, 'num_classes', None)
