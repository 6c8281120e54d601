"""Images in memory: arrays, PIL images, and things that are neither."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmdet_dinov2.data.image_file import read_image
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference.image_sources import list_images, pixels_of

from ..test_data.images import encoded, jpeg, picture

RGB = np.asarray(picture(41, 30))
BGR = RGB[..., ::-1]


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I', 'F'])
def test_pil_images_of_every_mode(mode):
    image = picture(41, 30).convert(mode)
    expected = np.asarray(image.convert('RGB')).astype(int)
    if mode in ('I', 'F'):  # from 0 on, and spread to 255
        values = np.asarray(image.convert('F'))
        expected = (values / values.max() * 255).round()[..., None].repeat(3, 2)
    for order in ('rgb', 'bgr'):  # they know their order
        pixels = pixels_of(image, order)
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        assert np.abs(pixels[..., ::-1] - expected).max() <= 1


@pytest.mark.parametrize('format_', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_an_opened_file_is_the_same_as_its_path(tmp_path, format_):
    options = dict(lossless=True) if format_ == 'WEBP' else {}
    path = tmp_path / 'a'
    path.write_bytes(encoded(picture(41, 30), format_, 6, **options))
    expected = read_image(path)
    assert expected.shape == (41, 30, 3)
    np.testing.assert_array_equal(pixels_of(Image.open(path), 'bgr'), expected)


def test_a_transparent_palette_is_left_as_it_is():
    image = picture(41, 30).convert('P')
    image.info['transparency'] = bytes(range(256))
    expected = np.asarray(image.convert('RGBA'))[..., 2::-1]
    np.testing.assert_array_equal(pixels_of(image, 'bgr'), expected)
    assert image.info['transparency'] == bytes(range(256))


def test_arrays():
    alpha = np.full((30, 41, 1), 9, np.uint8)
    grey = RGB[..., 0]
    for image, order, expected in (
        (BGR, 'bgr', BGR),
        (RGB, 'rgb', BGR),
        (np.concatenate([BGR, alpha], 2), 'bgr', BGR),
        (np.concatenate([RGB, alpha], 2), 'rgb', BGR),
        (grey, 'bgr', grey[..., None].repeat(3, 2)),
        (grey[..., None], 'rgb', grey[..., None].repeat(3, 2)),
        (BGR[:, ::-1], 'bgr', BGR[:, ::-1]),
    ):
        pixels = pixels_of(image, order)
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (RGB / 255, r'float64; bring the values to 0\.\.255'),
        (RGB.astype(np.uint16) * 16, r'uint16; scale the values to 0\.\.255'),
        (RGB > 9, 'bool; scale the values'),
        (np.stack([RGB, RGB]), r'shape \(2, 30, 41, 3\).*as a list, list\(images\)'),
        (RGB.transpose(2, 0, 1), r'image\.transpose\(1, 2, 0\)'),
        (RGB[:0], r'shape \(0, 41, 3\), without a pixel'),
        (np.zeros((2, 2000, 3), np.uint8), '2000 x 2 pixels, but a side may be at most 200 times'),
        (torch.zeros(3, 8, 9), r'torch\.Tensor; convert a tensor of 3 x H x W.*permute\(1, 2, 0\)'),
        (jpeg(), r'of type bytes; open them with PIL\.Image\.open\(io\.BytesIO\(data\)\)'),
        (['a.jpg'], 'of type list; give one list of images'),
        (None, 'but is None'),
        (7, 'but is 7'),
        (Image.open(io.BytesIO(jpeg()[:900])), 'the PIL image cannot be read'),
    ],
    ids=lambda value: '' if isinstance(value, str) else type(value).__name__,
)
def test_other_things_are_one_sentence_with_the_remedy(image, message):
    with pytest.raises(InputError, match=message):
        pixels_of(image, 'bgr')


def test_one_image_or_many():
    for one in ('a.jpg', Path('a.jpg'), RGB, picture()):
        (only,) = list_images(one)
        assert only is one
    for many in (['a.jpg', RGB], ('a.jpg',), [], (path for path in ('a.jpg', 'b.jpg'))):
        assert list_images(many) is many
    for wrong, message in (
        (None, 'but is None'),
        (7, 'but is 7'),
        (jpeg(), r'PIL\.Image\.open'),
        (torch.zeros(3, 8, 9), 'permute'),
    ):
        with pytest.raises(InputError, match=message):
            list_images(wrong)
