import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

import mmdet_dinov2
from mmdet_dinov2.data import shapes
from mmdet_dinov2.data.shapes import generate_shapes
from mmdet_dinov2.data.shapes_drawing import Shape, tight_box
from mmdet_dinov2.errors import InputError


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp('data') / 'shapes', 26, 14, seed=5)


def read_all(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read_json(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


@pytest.mark.parametrize(('split', 'count', 'num_empty'), [('train', 26, 1), ('val', 14, 1)])
def test_coco_format(root, split, count, num_empty):
    coco = COCO(str(root / 'annotations' / f'{split}.json'))
    names = sorted(path.name for path in (root / split).iterdir())
    assert [image['file_name'] for image in coco.imgs.values()] == names
    assert len(names) == count
    assert [coco.cats[key]['name'] for key in (1, 2, 3, 4, 5)] == [
        'circle',
        'rectangle',
        'triangle',
        'star',
        'cross',
    ]
    sizes = set()
    for image_id, image in coco.imgs.items():
        height, width = cv2.imread(str(root / split / image['file_name'])).shape[:2]
        assert (width, height) == (image['width'], image['height'])
        sizes.add((width, height))
        assert len(coco.getAnnIds(imgIds=[image_id])) <= 8
    assert any(width % 2 or height % 2 for width, height in sizes) and len(sizes) > 10
    assert count - len({ann['image_id'] for ann in coco.anns.values()}) == num_empty
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for annotation in coco.anns.values():
        x, y, w, h = annotation['bbox']
        image = coco.imgs[annotation['image_id']]
        assert all(isinstance(value, float) for value in annotation['bbox'])
        assert 0 <= x < x + w <= image['width'] and 0 <= y < y + h <= image['height']
        assert 0 < annotation['area'] <= w * h and annotation['iscrowd'] == 0


def test_annotations_say_what_was_drawn(tmp_path, monkeypatch):
    drawn = [
        Shape(label, (label, 2, 3 + label, 4), 11 + label, (0, 0, 0), [[label, 1.0]])
        for label in range(5)
    ]
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    monkeypatch.setattr(shapes, 'draw_picture', lambda rng, num_shapes: (picture, drawn))
    content = read_json(generate_shapes(tmp_path / 'shapes', 1, 1), 'val')
    assert content['images'] == [dict(id=1, file_name='000001.jpg', width=30, height=20)]
    names = {category['id']: category['name'] for category in content['categories']}
    assert [
        (names[annotation['category_id']], annotation['bbox'], annotation['area'])
        for annotation in content['annotations']
        if annotation['segmentation'] == [[annotation['category_id'] - 1, 1.0]]
    ] == [
        ('circle', [0, 2, 3, 4], 11),
        ('rectangle', [1, 2, 4, 4], 12),
        ('triangle', [2, 2, 5, 4], 13),
        ('star', [3, 2, 6, 4], 14),
        ('cross', [4, 2, 7, 4], 15),
    ]


def test_same_arguments_give_the_same_bytes(root, tmp_path):
    assert read_all(generate_shapes(tmp_path / 'again', 26, 14, seed=5)) == read_all(root)
    other = generate_shapes(tmp_path / 'other', 26, 14, seed=6)
    assert read_json(other, 'train')['images'] != read_json(root, 'train')['images']


def test_splits_differ_and_small_sets_begin_large_ones(root, tmp_path):
    small = generate_shapes(tmp_path / 'small', 4, 3, seed=5)
    large, little = read_json(root, 'train'), read_json(small, 'train')
    assert little['images'] == large['images'][:4]
    assert little['annotations'] == large['annotations'][: len(little['annotations'])]
    assert little['images'][:3] != read_json(small, 'val')['images']
    assert (small / 'train/000002.jpg').read_bytes() == (root / 'train/000002.jpg').read_bytes()


def test_an_equal_dataset_is_left_alone(tmp_path, monkeypatch):
    root = generate_shapes(tmp_path / 'shapes', 2, 1)
    monkeypatch.setattr(shapes, '_write_split', lambda *args: pytest.fail('written again'))
    assert generate_shapes(str(root), 2, 1) == root


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_train=0), 'num_train must be a whole number of at least 1, but is 0'),
        (dict(num_val=-3), 'num_val must be a whole number of at least 1, but is -3'),
        (dict(num_val=2.0), 'num_val must be a whole number of at least 1, but is 2.0'),
        (dict(num_train=True), 'num_train must be a whole number of at least 1, but is True'),
        (dict(seed=-1), 'seed must be a whole number of at least 0, but is -1'),
        (dict(seed=None), 'seed must be a whole number of at least 0, but is None'),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        generate_shapes(tmp_path / 'shapes', **arguments)
    assert not any(tmp_path.iterdir())


def test_other_content_is_refused_and_kept(tmp_path):
    for name in ('a.txt', 'b.txt', 'c.txt', 'd.txt'):
        (tmp_path / name).write_text('mine')
    with pytest.raises(InputError) as error:
        generate_shapes(tmp_path, 2, 1)
    for fact in (f"'{tmp_path}'", "'a.txt', 'b.txt', 'c.txt' and 1 more", 'sample_data.root'):
        assert fact in str(error.value)
    assert len(read_all(tmp_path)) == 4

    with pytest.raises(InputError, match='a file has this name.*sample_data.root'):
        generate_shapes(tmp_path / 'a.txt', 2, 1)
    assert (tmp_path / 'a.txt').read_text() == 'mine'


def test_other_arguments_are_refused(tmp_path):
    root = generate_shapes(tmp_path / 'shapes', 2, 1, seed=3)
    before = read_all(root)
    with pytest.raises(InputError) as error:
        generate_shapes(root, 4, 1, seed=3)
    assert (
        f"'{root}' was generated with generator_version=2, num_train=2, num_val=1, seed=3"
        in str(error.value)
    )
    assert 'generator_version=2, num_train=4, num_val=1, seed=3 is requested' in str(error.value)
    assert '`sample_data`' in str(error.value)
    assert read_all(root) == before

    (root / 'shapes.json').write_text('{"num_tr')
    with pytest.raises(InputError, match='generated with unreadable arguments'):
        generate_shapes(root, 2, 1, seed=3)


def test_a_different_generator_version_is_refused(tmp_path, monkeypatch):
    root = generate_shapes(tmp_path / 'shapes', 2, 1)
    monkeypatch.setattr(shapes, 'GENERATOR_VERSION', 3)
    with pytest.raises(InputError, match='generator_version=3'):
        generate_shapes(root, 2, 1)


def without_polygons(root):
    """Turns a dataset into what the first version of the generator left."""
    for split in ('train', 'val'):
        content = read_json(root, split)
        for annotation in content['annotations']:
            del annotation['segmentation']
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    marker = json.loads((root / 'shapes.json').read_text())
    (root / 'shapes.json').write_text(json.dumps(dict(marker, generator_version=1)))


def test_polygons_are_added_to_a_dataset_of_the_first_version(root, tmp_path):
    old = generate_shapes(tmp_path / 'shapes', 26, 14, seed=5)
    without_polygons(old)
    with pytest.raises(InputError, match='generator_version=1.*num_train=27'):
        generate_shapes(old, 27, 14, seed=5)
    assert 'segmentation' not in read_json(old, 'val')['annotations'][0]
    pictures = {path: path.stat().st_ino for path in old.rglob('*.jpg')}
    generate_shapes(old, 26, 14, seed=5)
    assert read_all(old) == read_all(root)
    assert {path: path.stat().st_ino for path in old.rglob('*.jpg')} == pictures


def test_a_dataset_of_the_first_version_that_cannot_be_written_serves_boxes(tmp_path, monkeypatch):
    old = generate_shapes(tmp_path / 'shapes', 2, 1)
    without_polygons(old)
    before = read_all(old)

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(shapes.os, 'replace', refuse)
    assert generate_shapes(old, 2, 1) == old
    assert read_all(old) == before


def test_polygons_cover_what_was_drawn(root):
    for split in ('train', 'val'):
        coco = COCO(str(root / 'annotations' / f'{split}.json'))
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            assert mask.sum() == annotation['area']
            assert tight_box(mask) == tuple(annotation['bbox'])


def test_kinds_of_folders(tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to('elsewhere')
    monkeypatch.chdir(tmp_path)
    expected = read_all(generate_shapes('new/deep/shapes', 2, 1))
    assert generate_shapes('empty', 2, 1) == Path('empty')
    generate_shapes('link', 2, 1)
    assert read_all(tmp_path / 'empty') == read_all(tmp_path / 'elsewhere') == expected
    assert (tmp_path / 'link').is_symlink()


def test_folder_is_as_readable_as_any_other(tmp_path):
    (tmp_path / 'plain').mkdir()
    root = generate_shapes(tmp_path / 'shapes', 1, 1)
    assert root.stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    write_split = shapes._write_split

    def interrupted(root, split, *args):
        if split == 'val':
            raise KeyboardInterrupt
        write_split(root, split, *args)

    monkeypatch.setattr(shapes, '_write_split', interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / 'shapes', 2, 1)
    assert not any(tmp_path.iterdir())
    monkeypatch.undo()
    generate_shapes(tmp_path / 'shapes', 2, 1)


@pytest.mark.parametrize('seed_of_winner', [0, 1])
def test_the_loser_of_a_race_uses_the_winner(tmp_path, monkeypatch, seed_of_winner):
    write_dataset = shapes._write_dataset
    root = tmp_path / 'shapes'

    def overtaken(*args):
        write_dataset(*args)
        monkeypatch.undo()
        generate_shapes(root, 2, 1, seed=seed_of_winner)
        (root / 'train' / 'of_winner').touch()

    monkeypatch.setattr(shapes, '_write_dataset', overtaken)
    if seed_of_winner == 0:
        assert generate_shapes(root, 2, 1) == root
    else:
        with pytest.raises(InputError, match='seed=1, but .*seed=0 is requested'):
            generate_shapes(root, 2, 1)
    assert (root / 'train' / 'of_winner').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


# All wait for the file 'go', so that they start together. The stubs of the packages avoid the
# imports of mmdet, which the generator does not need.
_PROCESS = """
import pathlib, sys, time, types
package, root, go = sys.argv[1:]
for name, path in (('mmdet_dinov2', package), ('mmdet_dinov2.data', package + '/data')):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from mmdet_dinov2.data.shapes import generate_shapes
print('ready', flush=True)
while not pathlib.Path(go).exists():
    time.sleep(0.001)
generate_shapes(root, 12, 6)
"""


def test_processes_that_start_at_once(tmp_path):
    package = next(iter(mmdet_dinov2.__path__))
    root, go = tmp_path / 'data' / 'shapes', tmp_path / 'go'
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', _PROCESS, package, str(root), str(go)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == 'ready\n', process.stderr.read()
    go.touch()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert os.listdir(root.parent) == ['shapes']
    assert read_all(root) == read_all(generate_shapes(tmp_path / 'alone', 12, 6))
