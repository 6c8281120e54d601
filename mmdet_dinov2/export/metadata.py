"""What an exported file has to say about itself, from the detector that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..inference import Detector
from ..inference.reader import Metadata

# Transforms of a test pipeline that change nothing the graph sees.
_WITHOUT_EFFECT = ('LoadAnnotations', 'PackDetInputs', 'PackTiledInputs')


def metadata_of(
    detector: Detector,
    size: tuple[int, int] | None,
    smallest_side: int,
    precision: str,
    score_threshold: float,
    model: str,
    mask_stride: float | None = None,
) -> Metadata:
    """Describes a detector.

    Args:
        detector: The detector.
        size: Height and width of the only size that the graph takes; None for any.
        smallest_side: Smallest side that it takes, in pixels.
        precision: 'fp32', 'fp16' or 'int8'.
        score_threshold: Lowest score that is worth showing.
        model: Where the file comes from, for people.
        mask_stride: Pixels along the side of a cell of the masks; None without masks.

    Raises:
        InputError: If the test pipeline does something that a reader does not know.
    """
    preprocessor = detector.model.data_preprocessor
    mean, std = (
        tuple(getattr(preprocessor, key).flatten().tolist())
        if hasattr(preprocessor, key)
        else default
        for key, default in (('mean', (0.0,) * 3), ('std', (1.0,) * 3))
    )
    # Private: mmengine has no other way to say whether it swaps the channels.
    swaps = preprocessor._channel_conversion
    return Metadata(
        classes=detector.classes,
        channel_order='rgb' if swaps else 'bgr',
        mean=mean,
        std=std,
        resize=_resize_rule(detector.pipeline),
        score_threshold=score_threshold,
        size=size,
        smallest_side=smallest_side if size is None else 1,
        precision=precision,
        model=model,
        mask_stride=mask_stride,
    )


def _resize_rule(pipeline: tuple[Mapping[str, Any], ...]) -> dict[str, Any] | None:
    rule = None
    if pipeline and pipeline[0].get('reduced_side') is not None:
        raise InputError(
            f'the test pipeline reduces images to {pipeline[0]["reduced_side"]} pixels '
            '(reduced_side), which exported files do not do; name a config with a test pipeline '
            'for whole images (LoadImageFromFile, Resize, PackDetInputs) in place of the '
            'checkpoint, and the checkpoint with --checkpoint'
        )
    for transform in pipeline[1:]:
        options = dict(transform)
        name = str(options.pop('type')).rpartition('.')[2]
        if name in _WITHOUT_EFFECT:
            continue
        scale = options.pop('scale', None)
        keep_ratio = options.pop('keep_ratio', False)
        usual = options.pop('interpolation', 'bilinear') == 'bilinear'
        usual &= options.pop('backend', 'cv2') == 'cv2'
        if name != 'Resize' or rule is not None or scale is None or options or not usual:
            raise InputError(
                f'the test pipeline has {dict(transform)}, but exported files know one Resize with '
                'scale, keep_ratio and bilinear interpolation only; name a config with a simpler '
                'test pipeline in place of the checkpoint, and the checkpoint with --checkpoint'
            )
        scale = [scale, scale] if isinstance(scale, int) else list(scale)
        rule = dict(scale=scale, keep_ratio=bool(keep_ratio))
    return rule
