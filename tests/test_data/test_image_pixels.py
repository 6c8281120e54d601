"""Pixels of image files of every format, mode, depth, shape and orientation."""

import io
import re

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mmdet_dinov2.data import BadImageError, CheckedLoadImageFromFile
from mmdet_dinov2.data.image_checks import inspect_image
from mmdet_dinov2.data.image_file import read_image
from mmdet_dinov2.data.image_header import read_header
from mmdet_dinov2.data.image_pixels import decode, to_8_bits, turn
from mmdet_dinov2.errors import InputError

from .images import encoded, jpeg, picture, tiff

# Smooth, so that lossy formats change little, and different in all corners and channels.
SMOOTH = np.stack(
    [
        np.add.outer(np.linspace(0, 150, 30), np.linspace(0, 100, 41)),
        np.add.outer(np.linspace(200, 0, 30), np.linspace(0, 50, 41)),
        np.add.outer(np.linspace(0, 50, 30), np.linspace(200, 0, 41)),
    ],
    axis=2,
).astype(np.uint8)


def decoded(content, **kwargs):
    return decode(content, read_header(content), **kwargs)


# Name of the case: file of 41 x 30 pixels as stored, with an orientation; tolerance.
TURNED = {
    'JPEG': (lambda o: encoded(Image.fromarray(SMOOTH), 'JPEG', o, quality=98, subsampling=0), 9),
    'PNG': (lambda o: encoded(Image.fromarray(SMOOTH), 'PNG', o), 0),
    'WebP': (lambda o: encoded(Image.fromarray(SMOOTH), 'WEBP', o, lossless=True), 0),
    'TIFF': (lambda o: encoded(Image.fromarray(SMOOTH), 'TIFF', o), 0),
    'compressed TIFF': (
        lambda o: encoded(Image.fromarray(SMOOTH), 'TIFF', o, compression='tiff_lzw'),
        0,
    ),
    'TIFF, 16 bits': (lambda o: tiff(SMOOTH.astype(np.uint16) * 257, o), 1),
    'TIFF, floats': (lambda o: tiff(SMOOTH.astype(np.float32) / 255, o), 1),
}


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('case', TURNED)
def test_every_format_is_turned_alike(tmp_path, case, orientation):
    write, tolerance = TURNED[case]
    # A JPEG file has the EXIF data that Pillow turns by; the pixels are the exact ones.
    reference = Image.open(io.BytesIO(jpeg(41, 30, orientation=orientation)))
    stored = Image.fromarray(SMOOTH)
    stored.info['exif'] = reference.info['exif']
    shown = np.asarray(ImageOps.exif_transpose(stored))
    content = write(orientation)
    path = tmp_path / 'a'
    path.write_bytes(content)
    header = read_header(content)
    assert header == read_header(path)
    assert (header.stored_size, header.orientation) == ((41, 30), orientation)
    assert header.shown_size == shown.shape[1::-1]
    load = CheckedLoadImageFromFile()
    for pixels in (
        decoded(content),
        read_image(path),
        decoded(content, annotated_size=header.shown_size),
        load(dict(img_path=str(path)))['img'],
    ):
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        # Values of more than 8 bits are spread over 0 to 255.
        spread = to_8_bits(shown.astype(np.int32)) if ',' in case else shown
        assert pixels.shape == shown.shape
        assert np.abs(pixels[..., ::-1].astype(int) - spread).max() <= tolerance
    # Annotations of the stored image.
    unturned = load(dict(img_path=str(path), width=41, height=30))['img']
    expected = SMOOTH if orientation > 4 else shown
    expected = to_8_bits(expected.astype(np.int32)) if ',' in case else expected
    assert np.abs(unturned[..., ::-1].astype(int) - expected).max() <= tolerance
    assert inspect_image(str(path)).problem == ''


MODES = {
    'PNG': ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'),
    'TIFF': ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB'),
    'JPEG': ('L', 'RGB', 'CMYK', 'YCbCr'),
    'BMP': ('1', 'L', 'P', 'RGB', 'RGBA'),
    'GIF': ('1', 'L', 'P'),
    'WEBP': ('L', 'RGB', 'RGBA'),
    'TGA': ('L', 'LA', 'P', 'RGB', 'RGBA'),
    'PPM': ('1', 'L', 'RGB'),
}


@pytest.mark.parametrize(('format_', 'mode'), [(f, m) for f, modes in MODES.items() for m in modes])
def test_modes(format_, mode, recwarn):
    image = Image.fromarray(SMOOTH).convert(mode)
    content = encoded(image, format_, **({'lossless': True} if format_ == 'WEBP' else {}))
    pixels = decoded(content)
    expected = np.asarray(image.convert('RGB')).astype(int)
    tolerance = 14 if format_ == 'JPEG' else 0
    assert pixels.shape == (30, 41, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels[..., ::-1] - expected).max() <= tolerance
    grey = decoded(content, flag='grayscale')
    np.testing.assert_array_equal(grey, cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
    assert not recwarn.list


@pytest.mark.parametrize('format_', ['GIF', 'WEBP', 'TIFF', 'PNG'])
def test_the_first_of_several_images_is_taken(format_):
    other = Image.new('RGB', (41, 30), 'white')
    image = Image.fromarray(SMOOTH).quantize(200).convert('RGB')
    options = dict(save_all=True, append_images=[other])
    content = encoded(
        image, format_, **options, **(dict(lossless=True) if format_ == 'WEBP' else {})
    )
    assert np.abs(decoded(content)[..., ::-1].astype(int) - np.asarray(image)).max() <= 2


@pytest.mark.parametrize('low', [0, 1500])
@pytest.mark.parametrize('case', ['png', 'tif', 'png rgb', 'png rgba', 'tif rgb', 'ppm rgb'])
def test_12_bits_in_a_file_of_16_are_spread(tmp_path, case, low):
    values = np.linspace(low, 4095, 30 * 41 * 3).round().astype(np.uint16).reshape(30, 41, 3)
    suffix, _, mode = case.partition(' ')
    pixels = values if mode else values[..., 0]
    if mode == 'rgba':
        pixels = np.dstack([values, np.full((30, 41), 65535, np.uint16)])
    path = tmp_path / f'a.{suffix}'
    cv2.imwrite(str(path), pixels)
    image = read_image(path)
    ours = values if mode else np.repeat(values[..., :1], 3, 2)
    expected = (ours.astype(float) - ours.min()) / (ours.max() - ours.min()) * 255
    assert np.abs(image - expected).max() <= 0.5 + 1e-9
    assert len(np.unique(image)) == 256
    assert inspect_image(str(path)).depth.startswith(f'16 bits, {low} to 409')


def test_other_depths():
    grey = SMOOTH[..., 0]
    for pixels in (
        grey.astype(np.float32) / 255,
        grey.astype(np.float32) * 1000 - 5e4,
        grey.astype(np.int32) - 100,
        grey.astype(np.uint16),
    ):
        image = decoded(tiff(pixels))
        expected = (grey - grey.min()) / np.ptp(grey) * 255
        assert np.abs(image - expected[..., None]).max() <= 0.51
    holes = grey.astype(np.float32)
    holes[0, :3] = np.nan, np.inf, -np.inf
    image = decoded(tiff(holes))
    assert (image[0, :3] == 0).all() and image.max() == 255 and image[20].min() > 0
    assert (decoded(tiff(np.full((9, 9), 700, np.uint16))) == 0).all()
    assert (decoded(tiff(np.full((9, 9), np.nan, np.float32))) == 0).all()


def test_orientations_undo_each_other():
    for orientation in range(1, 9):
        back = {6: 8, 8: 6}.get(orientation, orientation)
        np.testing.assert_array_equal(turn(turn(SMOOTH, orientation), back), SMOOTH)


JPEGS = {
    'plain': {},
    'grey': dict(grey=True),
    'progressive': dict(progressive=True),
    'optimised': dict(optimize=True),
    'restart markers': dict(restart_marker_blocks=3),
    'restart markers, rows': dict(restart_marker_rows=1),
    'progressive, restart markers': dict(progressive=True, restart_marker_rows=1),
}


def jpeg_of(case, width=61, height=47):
    options = dict(JPEGS[case])
    image = picture(width, height).convert('L' if options.pop('grey', False) else 'RGB')
    content = encoded(image, 'JPEG', quality=90, **options)
    assert content.endswith(b'\xff\xd9')
    return content


@pytest.mark.parametrize('case', JPEGS)
def test_a_jpeg_file_without_its_end_marker(tmp_path, case):
    content = jpeg_of(case)
    whole = decoded(content)
    np.testing.assert_array_equal(decoded(content[:-2]), whole)
    np.testing.assert_array_equal(decoded(content[:-1]), whole)
    np.testing.assert_array_equal(decoded(content[:-2] + bytes(512)), whole)
    np.testing.assert_array_equal(decoded(content + b'a video after it'), whole)
    # Every other end is too early.
    for length in (*range(len(content) - 40, len(content) - 4), *range(20, len(content), 97)):
        for end in (b'', bytes(4096)):
            with pytest.raises(InputError, match='is cut off|is broken|not an image|cannot be dec'):
                decoded(content[:length] + end)


@pytest.mark.parametrize('case', ['progressive', 'progressive, restart markers'])
def test_a_progressive_jpeg_file_that_lacks_scans_is_cut_off(case):
    content = jpeg_of(case)
    scans = [match.start() for match in re.finditer(b'\xff\xda', content)]
    assert len(scans) > 3
    for start in scans[1:]:
        # The scan may have tables of its own before it.
        tables = content.rfind(b'\xff\xc4', 0, start)
        for length in {start, tables if tables > scans[0] else start}:
            with pytest.raises(InputError, match='the file is cut off'):
                decoded(content[:length])


def test_the_end_marker_of_a_thumbnail_is_not_that_of_the_image():
    content = jpeg(thumbnail=b'\xff\xd8\xff\xda\0\x02\xff\xd9')
    np.testing.assert_array_equal(decoded(content[:-2]), decoded(content))
    with pytest.raises(InputError, match='the file is cut off'):
        decoded(content[: len(content) // 2])


@pytest.mark.parametrize('format_', ['PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM'])
def test_other_files_that_are_cut_off(format_):
    content = encoded(picture(61, 47), format_)
    for part in (0.5, 0.95):
        with pytest.raises(InputError):
            decoded(content[: int(part * len(content))])


@pytest.mark.parametrize('size', [(3000, 2), (2, 3000), (201, 1), (1, 500)])
def test_extreme_shapes_are_bad_images(tmp_path, size):
    path = tmp_path / 'line.png'
    Image.new('RGB', size, 'red').save(path)
    message = '{} x {} pixels, but a side may be at most 200 times'.format(*size)
    with pytest.raises(BadImageError, match=message):
        CheckedLoadImageFromFile()(dict(img_path=str(path)))
    with pytest.raises(InputError, match=rf'line\.png is not a valid image \(.*{message}'):
        read_image(path)
    assert message in inspect_image(str(path)).problem


@pytest.mark.parametrize('size', [(1, 1), (200, 1), (3, 600)])
def test_other_shapes_are_images(tmp_path, size):
    Image.new('RGB', size, 'red').save(tmp_path / 'a.png')
    assert (read_image(tmp_path / 'a.png') == (0, 0, 255)).all()


def test_files_that_people_take_for_images(tmp_path):
    for content, message in (
        (b'\0\0\0\x18ftypheic' + bytes(300), 'convert it to JPEG'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (encoded(Image.fromarray(SMOOTH), 'EPS'), 'not an image but EPS'),
        (b'II*\0' + bytes(50), 'is not an image'),
    ):
        (tmp_path / 'a.jpg').write_bytes(content)
        for what in (content, tmp_path / 'a.jpg'):
            with pytest.raises(InputError, match=message):
                read_header(what)
