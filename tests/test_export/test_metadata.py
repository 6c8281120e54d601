"""What an exported file says of the images that it takes."""

from types import SimpleNamespace

import pytest

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.export.metadata import metadata_of

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')
RESIZE = dict(type='Resize', scale=(100, 50), keep_ratio=True)


def resize_of(*pipeline):
    preprocessor = SimpleNamespace(_channel_conversion=True)
    detector = SimpleNamespace(
        model=SimpleNamespace(data_preprocessor=preprocessor), classes=('a',), pipeline=pipeline
    )
    return metadata_of(detector, None, 14, 'fp32', 0.3, 'a.pth').resize


def test_the_resize_of_the_test_pipeline_is_noted():
    assert resize_of(LOAD, RESIZE, PACK) == dict(scale=[100, 50], keep_ratio=True)
    assert resize_of(LOAD, PACK) is None


@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        ((LOAD, dict(RESIZE, interpolation='bicubic'), PACK), 'exported files know one Resize'),
        ((LOAD, RESIZE, RESIZE, PACK), 'exported files know one Resize'),
        ((LOAD, dict(type='Pad', size_divisor=32), PACK), 'exported files know one Resize'),
        (
            (dict(type='TiledLoadImageFromFile', reduced_side=224), dict(type='PackTiledInputs')),
            r'reduces images to 224 pixels \(reduced_side\), which exported files do not do',
        ),
    ],
)
def test_what_a_reader_would_not_do_is_refused(pipeline, message):
    with pytest.raises(InputError, match=message):
        resize_of(*pipeline)
