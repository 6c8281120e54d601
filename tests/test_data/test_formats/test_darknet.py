"""Label files of YOLO without a data.yaml: darknet's obj.data, and files of names."""

import pytest

from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.errors import InputError

from ..data_sets import write_yolo
from ..helpers import NAMES, coco_content


def find(root):
    return find_own_data(root, root.parent / f'{root.name} cache')


@pytest.fixture
def darknet(tmp_path):
    """An export of CVAT, whose paths begin with a folder that it does not have."""
    write_yolo(tmp_path, dict(train=coco_content(5))).unlink()
    folder = tmp_path / 'obj_train_data'
    (tmp_path / 'images/train').rename(folder)
    for path in (tmp_path / 'labels/train').iterdir():
        path.rename(folder / path.name)
    (tmp_path / 'labels/train').rmdir()
    (tmp_path / 'labels').rmdir()
    (tmp_path / 'images').rmdir()
    (tmp_path / 'obj.names').write_text('\n'.join(NAMES) + '\n')
    (tmp_path / 'train.txt').write_text(
        ''.join(f'data/obj_train_data/{index}.jpg\n' for index in range(5))
    )
    (tmp_path / 'obj.data').write_text(
        'classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n'
        'backup = backup/\n'
    )
    return tmp_path


def test_an_export_of_cvat(darknet):
    data = find(darknet)
    assert data.classes == NAMES
    assert {split: f.num_images for split, f in data.splits.items()} == dict(train=4, val=1)
    (warning,) = data.warnings
    assert "'valid' in" in warning and 'so there is no val split' in warning


def test_what_is_missing_is_named(darknet):
    (darknet / 'train.txt').write_text('data/obj_train_data/9.jpg\n')
    with pytest.raises(InputError, match="lists 'data/obj_train_data/9.jpg', which does not exist"):
        find(darknet)
    (darknet / 'obj.names').unlink()
    with pytest.raises(InputError, match=r"'names' in .*obj.data is 'data/obj.names', which does"):
        find(darknet)


@pytest.mark.parametrize(
    ('names', 'folders'),
    [
        ('classes.txt', 'images'),
        ('train/_darknet.labels', '{split}'),
        ('labels/train/classes.txt', 'images/{split}'),
        ('obj.names', 'data/images/{split}'),
    ],
)
def test_a_file_of_names(tmp_path, names, folders):
    splits = dict(train=coco_content(5))
    if '{split}' in folders:
        splits['valid'] = coco_content(2)
    write_yolo(tmp_path, splits, folders).unlink()
    (tmp_path / names).write_text('\n'.join(NAMES))
    data = find(tmp_path)
    assert data.classes == NAMES and data.warnings == ()
    counts = {split: found.num_images for split, found in data.splits.items()}
    assert counts == (dict(train=5, val=2) if 'valid' in splits else dict(train=4, val=1))


def test_lists_beside_a_file_of_names(tmp_path):
    write_yolo(tmp_path, dict(train=coco_content(6)), 'images').unlink()
    (tmp_path / 'classes.txt').write_text('\n'.join(NAMES))
    (tmp_path / 'train.txt').write_text('images/0.jpg\nimages/1.jpg\n')
    (tmp_path / 'val.txt').write_text('data\\images\\2.jpg\n')
    (tmp_path / 'train_log.txt').write_text('epoch 1\n')
    data = find(tmp_path)
    counts = {split: found.num_images for split, found in data.splits.items()}
    assert counts == dict(train=2, val=1)
    stray, bare = data.warnings
    assert stray.startswith('3 label files belong to no picture')
    assert bare.startswith('3 pictures are in no split') and 'images/3.jpg' in bare


def test_the_line_of_a_name_is_the_number_of_its_class(darknet):
    (darknet / 'obj.names').write_text(f'{NAMES[0]}\r\n{NAMES[1]}\r\nc\u2028d\r\n\r\n')
    assert find(darknet).classes == (*NAMES[:2], 'c\u2028d')
    (darknet / 'obj.names').write_text(f'{NAMES[0]}\n\n{NAMES[1]}\n{NAMES[2]}\n')
    with pytest.raises(InputError, match=r'obj.names has no name in line 2'):
        find(darknet)
    (darknet / 'obj.names').unlink()
    (darknet / 'obj.names').mkdir()
    with pytest.raises(InputError, match=r'obj.names.*is not a file'):
        find(darknet)
