"""Reading of YOLO datasets."""

import os

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from mmdet_dinov2.data.formats.yolo import find_data_yaml, read_data_yaml
from mmdet_dinov2.data.formats.yolo_data import found_data, label_file, to_coco
from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.errors import InputError

from ..data_sets import write_yolo
from ..helpers import NAMES, coco_content


@pytest.fixture
def yolo(tmp_path):
    """The data.yaml of a dataset of 2 images."""
    return write_yolo(tmp_path, dict(train=coco_content(2)))


def set_keys(path, /, **values):
    content = yaml.safe_load(path.read_text())
    content = {key: value for key, value in {**content, **values}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))


def convert(path, split='train'):
    """Returns the content of a converted split, and the remarks."""
    return to_coco(read_data_yaml(path), split)


def messages(path, split='train'):
    """Returns notes and warnings of a dataset and one of its splits."""
    found = found_data(read_data_yaml(path))
    _, remarks = found.splits[split].read()
    return [*remarks.notes], [*found.remarks.warnings, *remarks.warnings]


def test_boxes_are_those_of_the_labels(yolo):
    content, _ = convert(yolo)
    expected = coco_content(2)
    assert found_data(read_data_yaml(yolo)).splits['train'].folder == yolo.parent / 'images/train'
    assert messages(yolo) == ([], [])
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
        (dict(names={1: 'b', 0: 'a', 2: 'c'}), {0: 'a', 1: 'b', 2: 'c'}),
        (dict(names={'0': 'a', '10': 'b', '2': 'c'}), {0: 'a', 2: 'c', 10: 'b'}),
        (dict(names={5: 'a', -1: 'b'}, nc=2), {-1: 'b', 5: 'a'}),
        (dict(names={'a': 3, 'b': 1}), {1: 'b', 3: 'a'}),
        (dict(names=[{0: 'a'}, {1: 'b'}]), {0: 'a', 1: 'b'}),
        (dict(names=['yes', True, 1]), {0: 'yes', 1: 'true', 2: '1'}),
        (dict(names='red, dark green', nc=2), {0: 'red', 1: 'dark green'}),
        (dict(names='red, of all', nc=1), {0: 'red, of all'}),
        (dict(names='raccoon'), {0: 'raccoon'}),
        (dict(names='cells.names'), {0: 'red cell', 1: 'white cell'}),
        (dict(names=None, nc=3), {0: 'class_0', 1: 'class_1', 2: 'class_2'}),
        (dict(names={0: 'a', 1: 'b', 5: 'c'}, nc=6), {0: 'a', 1: 'b', 5: 'c'}),
    ],
)
def test_class_names(yolo, values, names):
    (yolo.parent / 'cells.names').write_text('red cell\nwhite cell\n')
    set_keys(yolo, **values)
    data = read_data_yaml(yolo)
    assert data.classes == names
    assert data.class_names == tuple(names[number] for number in sorted(names))


def test_class_names_stay_as_they_are_written(yolo):
    words = ['no', 'Yes', 'on', '02146', '1e3', '0x1F', 'null', '~', '1_000', '12:30', '2024-01-01']
    rows = ''.join(f'  {number}: {word}\n' for number, word in enumerate(words))
    yolo.write_text(f'train: images/train\nnames:\n{rows}')
    assert read_data_yaml(yolo).class_names == tuple(words)
    yolo.write_text(f'train: images/train\nnames: [{", ".join(words)}]\n')
    assert read_data_yaml(yolo).class_names == tuple(words)


def test_any_whole_numbers_are_classes(yolo):
    set_keys(yolo, names={1: 'a', 7: 'b', 90: 'c'})
    for index, line in enumerate(['90 0.5 0.5 0.5 0.2', '7.0 0.5 0.5 0.5 0.2']):
        (yolo.parent / f'labels/train/{index}.txt').write_text(line)
    content, _ = convert(yolo)
    names = {category['id']: category['name'] for category in content['categories']}
    assert [names[entry['category_id']] for entry in content['annotations']] == ['c', 'b']
    assert list(names.values()) == ['a', 'b', 'c']


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (
            dict(names={'a': 'b'}),
            r"the keys of 'names' in .*data.yaml must be whole numbers, .* but are .'a'",
        ),
        (dict(names=None), "'names' in .* must list the class names, but is None"),
        (dict(names=['a', 'b', 'a']), "'names' in .* lists 'a' more than once"),
        (dict(names=['a', '']), "'names' in .* must list the class names"),
        (dict(nc=5), "has nc=5, but 3 'names'"),
        (dict(nc=10**10, names=None), 'has nc=10000000000, more than 100000 classes'),
        (dict(names='classes.txt'), 'classes.txt has no name in line 2, and the lines'),
        (dict(kpt_shape=[4]), "'kpt_shape' in .* must be the number of key points and 2 or 3"),
        (dict(train='none'), r"'train' in .* is 'none', which does not exist; looked for .*none"),
        (dict(train='../none'), 'which does not exist; looked for .*none and .*/none'),
        (dict(train='labels'), "'train' in .* is 'labels', but .*labels has no images"),
        (dict(train='list.txt'), "list.txt lists 'x.jpg', which does not exist in"),
    ],
)
def test_a_data_file_that_cannot_be_used(yolo, values, message):
    (yolo.parent / 'list.txt').write_text('x.jpg\n')
    (yolo.parent / 'classes.txt').write_text('a\n\nb\nc\n\n')
    set_keys(yolo, **values)
    with pytest.raises(InputError, match=message):
        convert(yolo)


def test_yaml_cannot_run_code(yolo, tmp_path):
    marker = tmp_path / 'marker'
    yolo.write_text(f'names: !!python/object/apply:os.system ["touch {marker}"]\n')
    with pytest.raises(InputError, match='is not valid YAML'):
        read_data_yaml(yolo)
    assert not marker.exists()


@pytest.mark.parametrize('key', ['names', 'train', 'val', 'kpt_shape'])
def test_yaml_that_repeats_itself(yolo, key):
    """Ten lines that stand for a list of 10 ** 10 words."""
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]' for i in range(1, 10)]
    text = {'names': 'a', 'train': 'images/train', key: '*a9'}
    yolo.write_text('\n'.join([*lines, *(f'{k}: {v}' for k, v in text.items())]))
    with pytest.raises(InputError, match=f"'{key}' in .*data.yaml"):
        read_data_yaml(yolo)


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
    content, _ = convert(yolo)
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
            "the class must be 0 to 2, as 'names' of the data file says, but is 3",
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
    write_label(yolo, '\n')
    (root / 'images/train/2.jpg').write_bytes(b'not an image')
    (root / 'labels/train/2.txt').touch()
    content, _ = convert(yolo)
    assert [image['file_name'] for image in content['images']] == ['0.jpg', '1.jpg']
    assert {a['image_id'] for a in content['annotations']} == {2}
    (note,), (warning,) = messages(yolo)
    assert note.startswith('1 of 3 train images have an empty label file, so no boxes (')
    assert '1 of 3 train images are left out, because they cannot be read, first ' in warning
    assert '2.jpg (the file is not an image)' in warning


def test_pictures_and_labels_that_do_not_pair(yolo):
    root = yolo.parent
    (root / 'labels/train/0.txt').rename(root / 'labels/train/zero.txt')
    (root / 'labels/train/deep').mkdir()
    (root / 'labels/train/deep/3.txt').touch()
    (root / 'labels/train/classes.txt').write_text('cat\n')
    content, _ = convert(yolo)
    assert {a['image_id'] for a in content['annotations']} == {2}
    _, (stray, bare) = messages(yolo)
    assert stray.startswith('2 label files belong to no picture of ')
    assert 'labels/train/zero.txt' in stray and 'labels/train/deep/3.txt' in stray
    assert bare.startswith('1 of 2 train images have no label file') and 'train/0.jpg' in bare
    assert 'labels/train/0.txt' in bare


def test_labels_beside_their_pictures(yolo):
    root = yolo.parent
    expected = convert(yolo)[0]
    (root / 'labels/train/0.txt').rename(root / 'images/train/0.txt')
    assert convert(yolo)[0] == expected
    _, (warning,) = messages(yolo)
    assert warning.startswith('1 of 2 train images have no label file where it should be')
    (root / 'labels/train/0.txt').write_text('0 0.5 0.5 0.1 0.1')
    _, (warning,) = messages(yolo)  # the one beside the picture is not read then
    assert len(convert(yolo)[0]['annotations']) == len(expected['annotations']) - 2
    assert '1 label files belong to no picture' in warning and 'images/train/0.txt' in warning


def test_pictures_beside_the_splits_are_named(yolo):
    for split in ('val', 'extra'):
        folder = yolo.parent / 'images' / split
        folder.mkdir()
        Image.new('RGB', (8, 8)).save(folder / '0.png')
    set_keys(yolo, val='images/val')
    assert any(
        warning.startswith('1 pictures are in no split of') and 'images/extra/0.png' in warning
        for warning in messages(yolo)[1]
    )


def test_pictures_that_share_a_label_file(yolo):
    root = yolo.parent
    Image.new('RGB', (40, 30)).save(root / 'images/train/0.png')
    _, (warning,) = messages(yolo)
    assert '1 label files belong to several pictures' in warning and '0.txt' in warning


def test_labels_that_are_nowhere(yolo):
    (yolo.parent / 'labels').rename(yolo.parent / 'txt')
    message = 'none of the 2 train images .* should be .*labels/train/0.txt; .* would fit'
    with pytest.raises(InputError, match=message):
        convert(yolo)


def test_sizes_are_those_of_the_upright_image(yolo):
    path = yolo.parent / 'images/train/0.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    Image.fromarray(np.zeros((20, 50, 3), np.uint8)).save(path, exif=exif)
    height, width = cv2.imread(str(path)).shape[:2]
    content, _ = convert(yolo)
    assert (content['images'][0]['width'], content['images'][0]['height']) == (width, height)
    assert (width, height) == (20, 50)


def test_poses_are_boxes_with_points(yolo):
    write_label(yolo, '2 0.5 0.5 0.5 0.2 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n')
    set_keys(yolo, kpt_shape=[4, 2])
    content, _ = convert(yolo)
    assert content['annotations'][0]['bbox'] == pytest.approx([10, 12, 20, 6])
    notes, _ = messages(yolo)
    assert notes == ['the key points of 1 train boxes are not used']
    set_keys(yolo, kpt_shape=[3, 2])
    with pytest.raises(InputError, match=r'expected .* 3 key points of 2 numbers \(11 in all\)'):
        convert(yolo)


@pytest.mark.parametrize('flags', ['2 2', '0 2'])
def test_poses_without_kpt_shape_are_no_polygons(yolo, flags):
    first, second = flags.split()
    write_label(yolo, f'2 0.5 0.5 0.5 0.2 0.4 0.5 {first} 0.6 0.5 {second}')
    with pytest.raises(InputError, match=r"no 'kpt_shape'.*add kpt_shape: \[2, 3\]"):
        convert(yolo)


def test_oriented_boxes_are_named(yolo):
    write_label(yolo, '2 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5\n')
    content, _ = convert(yolo)
    assert content['annotations'][0]['bbox'] == pytest.approx([8, 6, 24, 18])
    notes, _ = messages(yolo)
    assert notes[0].startswith('1 of 4 train labels have four points, as oriented boxes do')
    write_label(yolo, '2 0.5 0.5 0.2 0.1 0.78')
    with pytest.raises(InputError, match='a sixth number is the confidence .*, or an angle'):
        convert(yolo)


def test_corners_are_found_before_boxes_are_cut(yolo):
    rng = np.random.default_rng(0)
    for index in range(2):
        lines = []
        for _ in range(5):
            x, y = rng.uniform(0.4, 0.7, 2)
            lines.append(f'0 {x:.4f} {y:.4f} {x + 0.2:.4f} {y + 0.25:.4f}')
        (yolo.parent / f'labels/train/{index}.txt').write_text('\n'.join(lines))
    with pytest.raises(InputError, match='train labels .* look like x1, y1, x2, y2: as centre'):
        convert(yolo)


def test_boxes_that_could_be_corners_are_named(yolo):
    """All of them are inside the image either way."""
    for index in range(2):
        lines = [f'0 0.3 0.3 {0.4 + i / 200} 0.5' for i in range(15)]
        (yolo.parent / f'labels/train/{index}.txt').write_text('\n'.join(lines))
    _, (warning,) = messages(yolo)
    assert warning.startswith('all 30 train boxes could be x1, y1, x2, y2 as well as centre')
    write_label(yolo, '0 0.5 0.5 0.4 0.6')
    assert messages(yolo)[1] == []


def test_cut_boxes_are_counted(yolo):
    write_label(yolo, '0 0.1 0.5 0.4 0.2\n1 0.5 0.5 0.1 0.1\n')
    content, _ = convert(yolo)
    assert content['annotations'][0]['bbox'] == pytest.approx([0, 12, 12, 6])
    _, (warning,) = messages(yolo)
    assert warning.startswith('1 of 5 train boxes extend beyond their image and are cut')
    assert 'labels/train/0.txt' in warning


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_texts_of_windows(yolo, encoding):
    expected = convert(yolo)[0]
    for path in (yolo, *yolo.parent.rglob('*.txt')):
        path.write_bytes(path.read_text().replace('\n', '\r\n').encode(encoding))
    assert convert(yolo)[0] == expected


def test_links_are_followed_and_loops_are_not(yolo):
    root = yolo.parent
    for kind in ('images', 'labels'):
        (root / kind / 'train').rename(root / f'{kind}_store')
        (root / kind / 'train').mkdir()
        (root / kind / 'train/camera').symlink_to(root / f'{kind}_store')
        (root / kind / 'train/loop').symlink_to(root / kind / 'train')
        (root / kind / 'train/up').symlink_to(root)
    (root / 'images/train/gone').symlink_to(root / 'nowhere')
    content, _ = convert(yolo)
    assert [i['file_name'] for i in content['images']] == ['0.jpg', '1.jpg']
    assert len(content['annotations']) == 6
    assert 'images/train/gone' in read_data_yaml(yolo).remarks.warnings[0]


def test_hidden_and_system_files_are_no_pictures(yolo):
    folder = yolo.parent / 'images/train'
    for name in ('.ipynb_checkpoints', '@eaDir/0.jpg', '__MACOSX', '$RECYCLE.BIN'):
        (folder / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(folder / name / 'x.jpg')
    (folder / '._0.jpg').write_bytes(b'\0\5\x16\7')
    assert [path.name for path in read_data_yaml(yolo).images['train']] == ['0.jpg', '1.jpg']


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('place', ['images/none', 'images/empty', '../valid/images'])
def test_a_split_without_pictures_is_named(yolo, split, place):
    (yolo.parent / 'images/empty').mkdir()
    set_keys(yolo, **{split: place})
    data = read_data_yaml(yolo)
    assert list(data.images) == ['train']
    assert place in data.remarks.warnings[0] and f'no {split} split' in data.remarks.warnings[0]


@pytest.mark.parametrize(
    'line',
    [
        '.\\images\\train\\0.jpg',
        '/home/somebody/data/images/train/0.jpg',
        'C:\\data\\images\\train\\0.jpg',
        'images/train/%30.jpg',
    ],
)
def test_lists_of_other_computers(yolo, line):
    (yolo.parent / 'train.txt').write_text(f'{line}\n')
    set_keys(yolo, train='train.txt')
    assert read_data_yaml(yolo).images['train'] == [yolo.parent / 'images/train/0.jpg']


@pytest.mark.parametrize('entry', ['images\\train', 'D:\\x\\images\\train', '/x/images/train'])
def test_folders_of_other_computers(yolo, entry):
    set_keys(yolo, train=entry)
    assert len(read_data_yaml(yolo).images['train']) == 2


def test_a_list_with_a_folder_too_many_says_what_would_fit(yolo):
    (yolo.parent / 'train.txt').write_text('data/images/train/0.jpg\n')
    set_keys(yolo, train='train.txt')
    with pytest.raises(InputError, match=r"lists 'data/images/train/0.jpg'.*0.jpg would fit"):
        read_data_yaml(yolo)


def test_names_that_are_no_utf_8(yolo, tmp_path_factory):
    name = b'caf\xe9.jpg'
    folder = yolo.parent / 'images/train'
    os.rename(folder / '0.jpg', os.path.join(os.fsencode(folder), name))
    data = find_own_data(yolo.parent, tmp_path_factory.mktemp('cache'))
    for text in (*data.notes, *data.warnings):
        text.encode()  # can be printed
    assert any('caf\\udce9.jpg' in text for text in data.warnings)
