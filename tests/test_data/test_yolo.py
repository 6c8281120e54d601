"""Reading of YOLO datasets."""

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from mmdet_dinov2.data.yolo import find_data_yaml, label_file, read_data_yaml, to_coco
from mmdet_dinov2.errors import InputError

from .data_sets import write_yolo
from .helpers import NAMES, coco_content


@pytest.fixture
def yolo(tmp_path):
    """The data.yaml of a dataset of 2 images."""
    return write_yolo(tmp_path, dict(train=coco_content(2)))


def set_keys(path, /, **values):
    content = yaml.safe_load(path.read_text())
    content = {key: value for key, value in {**content, **values}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))


def convert(path, split='train'):
    return to_coco(read_data_yaml(path), split)


def test_boxes_are_those_of_the_labels(yolo):
    content, folder, notes = convert(yolo)
    expected = coco_content(2)
    assert folder == str(yolo.parent / 'images/train') and notes == []
    assert [c['name'] for c in content['categories']] == list(NAMES)
    assert [image['file_name'] for image in content['images']] == ['0.jpg', '1.jpg']
    assert {(image['width'], image['height']) for image in content['images']} == {(40, 30)}
    assert len(content['annotations']) == len(expected['annotations'])
    for found, wanted in zip(content['annotations'], expected['annotations'], strict=True):
        assert found['bbox'] == pytest.approx(wanted['bbox'], abs=1e-3)
        assert found['area'] == pytest.approx(50, abs=0.1) and found['iscrowd'] == 0
    assert [a['category_id'] for a in content['annotations']] == [1, 2, 3] * 2


@pytest.mark.parametrize('way', ['absolute', 'parent', 'path', 'foreign path', 'list', 'text'])
def test_places_of_images(yolo, way):
    root = yolo.parent
    folder = root / 'images/train'
    (root / 'lists').mkdir()
    (root / 'lists/train.txt').write_text('../images/train/0.jpg\n\nimages/train/1.jpg\n')
    values = {
        'absolute': dict(train=str(folder)),
        'parent': dict(train='../images/train'),  # an export of Roboflow
        'path': dict(path='images', train='train'),
        'foreign path': dict(path='/home/somebody/data'),
        'list': dict(train=['images/train/1.jpg', 'images/train/0.jpg', 'images/train']),
        'text': dict(train='lists/train.txt'),
    }[way]
    set_keys(yolo, **values)
    images = read_data_yaml(yolo).images['train']
    assert sorted(images) == [folder / '0.jpg', folder / '1.jpg']


@pytest.mark.parametrize('key', ['val', 'valid', 'validation'])
def test_names_of_the_val_split(yolo, key):
    set_keys(yolo, **{key: 'images/train'})
    assert len(read_data_yaml(yolo).images['val']) == 2


@pytest.mark.parametrize(
    ('values', 'names'),
    [
        (dict(names={1: 'b', 0: 'a', 2: 'c'}), ('a', 'b', 'c')),
        (dict(names=['yes', True, 1]), ('yes', 'True', '1')),
        (dict(names=None, nc=3), ('class_0', 'class_1', 'class_2')),
    ],
)
def test_class_names(yolo, values, names):
    set_keys(yolo, **values)
    assert read_data_yaml(yolo).classes == names


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (
            dict(names={1: 'a'}),
            r"the keys of 'names' in .*data.yaml must be 0 to 0, .* but are \[1\]",
        ),
        (dict(names=None), "'names' in .* must list the class names, but is None"),
        (dict(nc=5), "has nc=5, but 3 'names'"),
        (dict(train='none'), r"'train' in .* is 'none', which does not exist; looked for .*none"),
        (dict(train='../none'), 'which does not exist; looked for .*none and .*/none'),
        (dict(train='labels'), "'train' in .* is 'labels', but .*labels has no images"),
        (dict(train='list.txt'), "list.txt lists 'x.jpg', which does not exist in"),
    ],
)
def test_a_data_file_that_cannot_be_used(yolo, values, message):
    (yolo.parent / 'list.txt').write_text('x.jpg\n')
    set_keys(yolo, **values)
    with pytest.raises(InputError, match=message):
        convert(yolo)


def test_yaml_cannot_run_code(yolo, tmp_path):
    marker = tmp_path / 'marker'
    yolo.write_text(f'names: !!python/object/apply:os.system ["touch {marker}"]\n')
    with pytest.raises(InputError, match='is not valid YAML'):
        read_data_yaml(yolo)
    assert not marker.exists()


def test_which_yaml_file(yolo, tmp_path):
    assert find_data_yaml(yolo) == yolo
    (tmp_path / 'docker.yml').write_text('services: {}')
    (tmp_path / 'broken.yml').write_text('a: [')
    assert find_data_yaml(tmp_path) == yolo
    yolo.rename(tmp_path / 'cells.yaml')
    assert find_data_yaml(tmp_path) == tmp_path / 'cells.yaml'
    (tmp_path / 'more.yaml').write_text('names: [a]')
    with pytest.raises(InputError, match=r'several YOLO data files \(cells.yaml, more.yaml\)'):
        find_data_yaml(tmp_path)


@pytest.mark.parametrize(
    ('image', 'label'),
    [
        ('/x/images/train/a.jpg', '/x/labels/train/a.txt'),
        ('/images/x/images/a.b.png', '/images/x/labels/a.b.txt'),
        ('/x/train/a.jpg', '/x/train/a.txt'),
    ],
)
def test_where_labels_are(image, label):
    from pathlib import Path

    assert label_file(Path(image)) == Path(label)


def write_label(yolo, text):
    (yolo.parent / 'labels/train/0.txt').write_text(text)


@pytest.mark.parametrize(
    ('text', 'box'),
    [
        ('2 0.5 0.5 0.5 0.2\n', [10, 12, 20, 6]),
        ('2 0.1 0.5 0.4 0.2', [0, 12, 12, 6]),  # cut at the border
        ('2 0.25 0.4 0.75 0.4 0.75 0.6 0.25 0.6\n', [10, 12, 20, 6]),  # a polygon
        ('2 0.5 0.5 0.5 0.2\n2 0.5 0.5 0.5 0.2\n', [10, 12, 20, 6]),  # twice
    ],
)
def test_boxes_and_polygons(yolo, text, box):
    write_label(yolo, text)
    content, _, _ = convert(yolo)
    found = [a for a in content['annotations'] if a['image_id'] == 1]
    assert len(found) == 1
    assert found[0]['bbox'] == pytest.approx(box) and found[0]['category_id'] == 3


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('0 0.5 0.5 0.2', "expected 'class x y width height' or a polygon, found '0 0.5 0.5 0.2'"),
        ('cat 0.5 0.5 0.2 0.2', "found 'cat 0.5"),
        ('0 nan 0.5 0.2 0.2', "found '0 nan"),
        (
            '3 0.5 0.5 0.2 0.2',
            "the class must be 0 to 2, as there are 3 'names' in the data file, but is 3",
        ),
        ('0.5 0.5 0.5 0.2 0.2', 'the class must be 0 to 2, .* but is 0.5'),
        ('0 20 15 10 5', 'must be fractions of width and height'),
    ],
)
def test_a_bad_line_is_named(yolo, line, message):
    write_label(yolo, f'0 0.5 0.5 0.1 0.1\n{line}\n')
    with pytest.raises(InputError, match=f'0.txt, line 2: .*{message}'):
        convert(yolo)


def test_images_without_boxes_and_broken_ones(yolo):
    root = yolo.parent
    (root / 'labels/train/0.txt').unlink()
    (root / 'images/train/2.jpg').write_bytes(b'not an image')
    content, _, notes = convert(yolo)
    assert [image['file_name'] for image in content['images']] == ['0.jpg', '1.jpg']
    assert {a['image_id'] for a in content['annotations']} == {2}
    assert notes[0] == '1 of 3 train images have no boxes'
    assert '1 of 3 train images are left out, because they cannot be read, first ' in notes[1]
    assert '2.jpg (the file is not an image)' in notes[1]


def test_labels_that_are_nowhere(yolo):
    (yolo.parent / 'labels').rename(yolo.parent / 'txt')
    with pytest.raises(
        InputError, match='none of the 2 train images .* should be .*labels/train/0.txt'
    ):
        convert(yolo)


def test_sizes_are_those_of_the_upright_image(yolo):
    path = yolo.parent / 'images/train/0.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    Image.fromarray(np.zeros((20, 50, 3), np.uint8)).save(path, exif=exif)
    height, width = cv2.imread(str(path)).shape[:2]
    content, _, _ = convert(yolo)
    assert (content['images'][0]['width'], content['images'][0]['height']) == (width, height)
    assert (width, height) == (20, 50)
