"""Loading of image files that are broken, hostile or rotated."""

import pickle

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile

from mmdet_dinov2.data import BadImageError, CheckedLoadImageFromFile
from mmdet_dinov2.data.image_file import read_image
from mmdet_dinov2.data.image_header import read_header
from mmdet_dinov2.errors import InputError

from .images import BROKEN, jpeg


def load(path, width=None, height=None, **kwargs):
    size = {} if width is None else dict(width=width, height=height)
    return CheckedLoadImageFromFile(**kwargs)(dict(img_path=str(path), **size))


def test_sound_images_are_loaded_as_mmcv_does(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(jpeg(41, 30))
    ours, theirs = load(tmp_path / 'a.jpg'), LoadImageFromFile()(dict(img_path=tmp_path / 'a.jpg'))
    assert ours.keys() == theirs.keys()
    np.testing.assert_array_equal(ours['img'], theirs['img'])
    assert ours['ori_shape'] == theirs['ori_shape'] == (30, 41)
    assert load(tmp_path / 'a.jpg', to_float32=True)['img'].dtype == np.float32


@pytest.mark.parametrize('case', BROKEN)
def test_broken_images_are_named(tmp_path, case):
    content, message = BROKEN[case]
    (tmp_path / 'bad.jpg').write_bytes(content)
    with pytest.raises(BadImageError) as error:
        load(tmp_path / 'bad.jpg')
    assert f"image '{tmp_path}/bad.jpg' cannot be read: the " in str(error.value)
    assert message in str(error.value)
    # Errors travel from loading processes.
    assert pickle.loads(pickle.dumps(error.value)).described == error.value.described


@pytest.mark.parametrize('case', BROKEN)
def test_broken_images_from_outside_of_a_data_set(tmp_path, case):
    (tmp_path / 'bad.jpg').write_bytes(BROKEN[case][0])
    with pytest.raises(InputError, match=r'bad\.jpg is not a valid image \(') as error:
        read_image(tmp_path / 'bad.jpg')
    assert BROKEN[case][1] in str(error.value)


def test_images_from_outside_of_a_data_set(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(jpeg(41, 30, orientation=6))
    np.testing.assert_array_equal(read_image(tmp_path / 'a.jpg'), load(tmp_path / 'a.jpg')['img'])
    assert read_image(tmp_path / 'a.jpg', (41, 30)).shape == (30, 41, 3)
    with pytest.raises(FileNotFoundError, match=r'none\.jpg does not exist'):
        read_image(tmp_path / 'none.jpg')


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BadImageError, match='the file does not exist'):
        load(tmp_path / 'none.jpg')
    with pytest.raises(BadImageError, match='cannot be read'):
        load(tmp_path)


def test_the_limit_of_pixels(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(jpeg(40, 30))
    assert load(tmp_path / 'a.jpg', max_pixels=1200)['img'].shape == (30, 40, 3)
    with pytest.raises(BadImageError, match='40 x 30 pixels, but at most 1,199 are allowed'):
        load(tmp_path / 'a.jpg', max_pixels=1199)
    with pytest.raises(InputError, match='max_pixels must be at least 1, but is 0'):
        CheckedLoadImageFromFile(max_pixels=0)


def black_corner(image):
    """Returns where the black quarter of the image is, as (bottom, right)."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    means = [image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:]]
    return divmod(int(np.argmin([part.mean() for part in means])), 2)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_are_turned_as_their_annotations_see_them(tmp_path, orientation):
    path = tmp_path / 'a.jpg'
    path.write_bytes(jpeg(40, 30, orientation=orientation))
    header = read_header(path.read_bytes())
    assert header.stored_size == (40, 30) and header.orientation == orientation
    shown = header.shown_size
    assert shown == ((30, 40) if orientation > 4 else (40, 30))
    # Annotations of the rotated image, and no annotations: as mmcv.
    mmcv = LoadImageFromFile()(dict(img_path=path))['img']
    assert mmcv.shape[:2] == shown[::-1]
    np.testing.assert_array_equal(load(path, *shown)['img'], mmcv)
    np.testing.assert_array_equal(load(path)['img'], mmcv)
    # Annotations of the stored image: the black quarter stays where they have it.
    stored = load(path, 40, 30)['img']
    assert stored.shape[:2] == (30, 40)
    if orientation > 4:
        assert black_corner(stored) == (0, 0)
