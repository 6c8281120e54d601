"""COCO annotation files: which belong to a split, and where their pictures are."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.errors import InputError

from ..data_sets import write_coco, write_images
from ..helpers import NAMES, coco_content


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def read(data, split='train'):
    return json.loads(open(data.splits[split].ann_file).read())


def find(root):
    return find_own_data(root, root.parent / f'{root.name} cache')


def rename(root, split, change, num_images=3):
    """Writes a dataset of pictures in images/, whose names in the annotation file are changed."""
    content = write_coco(root / f'annotations/{split}.json', root / 'images' / split, num_images)
    for image in content['images']:
        image['file_name'] = change(image['file_name'])
    write(root / f'annotations/{split}.json', content)
    return content


@pytest.mark.parametrize(
    ('name', 'split'),
    [
        ('trainval', 'train'), ('train_val2012', 'train'), ('TrainSet', 'train'),
        ('instances_Train', 'train'), ('dev', 'val'), ('validation', 'val'), ('eval', 'val'),
        ('minival2014', 'val'), ('test-dev2017', 'test'), ('testset', 'test'),
    ],
)  # fmt: skip
def test_names_that_tell_a_split(tmp_path, name, split):
    write_coco(tmp_path / f'annotations/{name}.json', tmp_path / 'images')
    if split == 'val':
        write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images')
    assert find(tmp_path).splits[split].ann_file.startswith(str(tmp_path))
    assert f'{split}: 3 images' in ' '.join(find(tmp_path).notes)


def test_trainval_counts_as_train_only_without_train(tmp_path):
    for name in ('trainval', 'test'):
        write_coco(tmp_path / f'annotations/{name}.json', tmp_path / f'images/{name}', 5)
    data = find(tmp_path)
    assert {split: found.num_images for split, found in data.splits.items()} == dict(
        train=4, val=1, test=5
    )
    for name in ('train', 'val'):
        write_coco(tmp_path / f'annotations/{name}.json', tmp_path / f'images/{name}')
    data = find(tmp_path)
    assert data.splits['train'].ann_file == str(tmp_path / 'annotations/train.json')
    assert any('annotations/trainval.json is not used, because' in note for note in data.notes)


def test_every_annotation_file_is_used_or_named(tmp_path):
    for name in ('Train', 'Test', 'default', 'more'):
        path = tmp_path / f'annotations/instances_{name}.json'
        write_coco(path, tmp_path / f'images/{name}')
    (warning,) = find(tmp_path).warnings
    assert warning.startswith('2 annotation files are not used, because neither their names')
    assert '(annotations/instances_default.json, annotations/instances_more.json)' in warning
    (tmp_path / 'annotations/instances_Train.json').unlink()
    (tmp_path / 'annotations/instances_more.json').unlink()
    data = find(tmp_path)  # the only one left is that of the training
    assert data.splits['train'].image_folder == str(tmp_path / 'images/default')
    assert any('instances_default.json, whose name tells no split' in n for n in data.notes)


def test_files_whose_names_tell_no_split(tmp_path):
    for name in ('a', 'b'):
        write_coco(tmp_path / f'{name}.json', tmp_path / 'images')
    with pytest.raises(
        InputError, match=r'2 annotation files whose names tell no split \(a.json, '
    ):
        find(tmp_path)


def test_what_is_no_coco_is_passed_over(tmp_path):
    for split in ('train', 'val'):
        write_coco(tmp_path / f'annotations/{split}.json', tmp_path / split)
        (tmp_path / f'annotations/._{split}.json').write_bytes(b'\0\5\x16\7' + bytes(99))
        write(tmp_path / f'annotations/{split}_results.json', dict(mAP=0.5, images=7))
        write(tmp_path / f'{split}_predictions.json', [dict(image_id=1, bbox=[1, 2, 3, 4])])
    write(tmp_path / '__MACOSX/annotations/train.json', coco_content())
    data = find(tmp_path)
    assert data.splits['train'].ann_file == str(tmp_path / 'annotations/train.json')
    assert any(
        'annotations/train_results.json' in n and 'val_predictions.json' in n for n in data.notes
    )
    assert data.warnings == ()


def test_a_split_without_images_is_named(tmp_path):
    write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images', 10)
    write(tmp_path / 'annotations/val.json', coco_content(0))
    data = find(tmp_path)
    assert data.splits['val'].num_images == 2
    assert 'lists no images, so there is no val split' in data.warnings[0]


def test_a_damaged_file_is_an_error_beside_others(tmp_path):
    for split in ('train', 'val'):
        write_coco(tmp_path / f'annotations/{split}.json', tmp_path / 'images')
    (tmp_path / 'annotations/train.json').write_text('{"images": [')
    with pytest.raises(InputError, match=r'train.json. is not valid JSON'):
        find(tmp_path)


@pytest.mark.parametrize(
    'change',
    [
        lambda name: f'images\\train\\{name}',
        lambda name: f'../../server/media/upload/4/{name}',
        lambda name: f'/data/local-files/?d=images%2F{name}',
        lambda name: f'images/1/{name}',
        lambda name: f'C:\\Users\\me\\{name}',
        lambda name: f's3://bucket/train/{name}',
        lambda name: f'upload/1/0a1b2c3d-{name}',
        lambda name: name.replace('.', '%2E'),
        lambda name: name if name.startswith('0') else f'..\\label\\{name}',
    ],
)
def test_names_of_other_computers(tmp_path, change):
    original = rename(tmp_path, 'train', change, 6)
    before = (tmp_path / 'annotations/train.json').read_text()
    data = find(tmp_path)
    assert data.splits['train'].image_folder == str(tmp_path / 'images/train')
    names = {
        image['id']: image['file_name']
        for s in ('train', 'val')
        for image in read(data, s)['images']
    }
    assert names == {image['id']: f'{image["id"] - 10}.jpg' for image in original['images']}
    assert any('file names of' in note and 'were read as' in note for note in data.notes)
    assert (tmp_path / 'annotations/train.json').read_text() == before


def test_letters_of_archives_of_macos(tmp_path):
    """Accents are characters of their own there."""
    content = rename(tmp_path, 'train', lambda name: unicodedata.normalize('NFC', f'é{name}'))
    for image in content['images']:
        old = tmp_path / 'images/train' / image['file_name'][1:]
        old.rename(old.with_name(unicodedata.normalize('NFD', image['file_name'])))
    write_coco(tmp_path / 'annotations/val.json', tmp_path / 'images/val')
    data = find(tmp_path)
    folder = Path(data.splits['train'].image_folder)
    assert all((folder / image['file_name']).is_file() for image in read(data)['images'])


def test_the_folders_of_a_name_decide_between_pictures(tmp_path):
    content = coco_content(4)
    for index, image in enumerate(content['images']):
        image['file_name'] = f'camera {index % 2}/{index // 2}.jpg'
    write_images(tmp_path / 'images/train/deep', content)
    for image in content['images']:
        image['file_name'] = '/server/' + image['file_name']
    write(tmp_path / 'annotations/train.json', content)
    data = find(tmp_path)
    names = sorted(i['file_name'] for s in ('train', 'val') for i in read(data, s)['images'])
    assert [name[-14:] for name in names] == [
        f'camera {camera}/{index}.jpg' for camera in (0, 1) for index in (0, 1)
    ]


def missing(tmp_path):
    """Returns the names of the train split that lead to no picture."""
    data = find(tmp_path)
    folder = Path(data.splits['train'].image_folder)
    names = [image['file_name'] for image in read(data)['images']]
    return [name for name in names if not (folder / name).is_file()]


def test_no_other_picture_takes_the_place_of_a_missing_one(tmp_path):
    """A picture of another split, of another size, or one of two that could be meant."""
    for split in ('train', 'val'):
        write_coco(tmp_path / f'annotations/{split}.json', tmp_path / 'images' / split)
    (tmp_path / 'images/train/1.jpg').unlink()
    assert missing(tmp_path) == ['1.jpg']
    Image.new('RGB', (20, 15)).save(tmp_path / '1.jpg')
    assert missing(tmp_path) == ['1.jpg']
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / 'images/val/1.jpg', tmp_path / name)
    (tmp_path / '1.jpg').unlink()
    assert missing(tmp_path) == ['1.jpg']


def test_two_names_do_not_share_a_picture(tmp_path):
    names = iter(['/a/0.jpg', '/b/0.jpg', '/a/2.jpg'])
    rename(tmp_path, 'train', lambda name: next(names))
    write_coco(tmp_path / 'annotations/val.json', tmp_path / 'images/val')
    assert [image['file_name'] for image in read(find(tmp_path))['images']] == [
        '/a/0.jpg', '/b/0.jpg', '2.jpg'
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('change', 'hint'),
    [
        (lambda name: name.replace('.jpg', '.JPG'), r"0.jpg' would fit \(the case differs\)"),
        (lambda name: name.replace('.jpg', '.png'), r"0.jpg' would fit \(the ending differs\)"),
    ],
)
def test_the_error_says_which_picture_would_fit(tmp_path, change, hint):
    rename(tmp_path, 'train', change)
    with pytest.raises(InputError, match=hint):
        find(tmp_path)


def test_sizes_that_are_missing_are_those_of_the_upright_pictures(tmp_path):
    content = write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images')
    write_coco(tmp_path / 'annotations/val.json', tmp_path / 'val')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(tmp_path / 'images/0.jpg', exif=exif)
    del content['images'][0]['width'], content['images'][0]['height']
    content['images'][1].update(width=0, height=None)
    content['images'][2].update(width=17)
    write(tmp_path / 'annotations/train.json', content)
    data = find(tmp_path)
    sizes = [(image['width'], image['height']) for image in read(data)['images']]
    assert sizes == [(30, 40), (40, 30), (17, 30)]
    assert any('2 of 3 sizes' in note for note in data.notes)
    (tmp_path / 'images/0.jpg').write_bytes(b'')
    with pytest.raises(InputError, match=r"gives no width and height of '0.jpg'"):
        find(tmp_path)


def test_a_heading_may_have_the_name_of_the_class(tmp_path):
    for split in ('train', 'valid'):
        path = tmp_path / split / '_annotations.coco.json'
        content = write_coco(path, tmp_path / split)
        content['categories'] = [
            dict(id=0, name='raccoon', supercategory='none'),
            dict(id=1, name='raccoon', supercategory='raccoon'),
        ]
        for annotation in content['annotations']:
            annotation['category_id'] = 1
        write(path, content)
    data = find(tmp_path)
    assert data.classes == ('raccoon',)
    for split in ('train', 'val'):
        content = read(data, split)
        assert [category['id'] for category in content['categories']] == [1]
        assert len(content['annotations']) == 9


def test_pictures_that_no_file_lists_are_counted(tmp_path):
    content = write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images', 5)
    content['images'] = content['images'][:3]
    content['annotations'] = content['annotations'][:9]
    write(tmp_path / 'annotations/train.json', content)
    (tmp_path / 'images/.ipynb_checkpoints').mkdir()
    shutil.copy(tmp_path / 'images/0.jpg', tmp_path / 'images/.ipynb_checkpoints')
    (warning,) = find(tmp_path).warnings
    assert warning.startswith('2 pictures are listed in no annotation file')
    assert "('images/3.jpg', 'images/4.jpg')" in warning


def test_pictures_of_the_training_in_other_splits_are_counted(tmp_path):
    for split, count in (('train', 5), ('val', 2)):
        write_coco(tmp_path / f'annotations/{split}.json', tmp_path / 'images', count)
    (warning,) = find(tmp_path).warnings
    assert warning.startswith('2 of 2 val images are also in the training data')


def test_links_that_lead_nowhere_are_named(tmp_path):
    write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images', 5)
    (tmp_path / 'images/camera').symlink_to(tmp_path / 'unplugged')
    assert '1 links in' in find(tmp_path).warnings[0] and 'camera' in find(tmp_path).warnings[0]


def test_other_annotations_in_the_folder_are_named(tmp_path):
    write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images', 5)
    (tmp_path / 'images/0.xml').write_text('<annotation><object/></annotation>')
    (tmp_path / 'data.yaml').write_text('names: [a]')
    data = find(tmp_path)
    assert data.classes == NAMES
    for what in ('the YOLO data file data.yaml', 'XML annotations of Pascal VOC in images/'):
        assert any(note.startswith(f'not used: {what}, because') for note in data.notes)


@pytest.mark.parametrize('ids', [(10**15, -7, 'b'), ('1', '2', '3'), (0, 90, 5)])
def test_any_ids_of_categories(tmp_path, ids):
    content = write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images', 5)
    new = dict(zip((7, 9, 11), ids, strict=True))
    for category in content['categories']:
        category['id'] = new[category['id']]
    for annotation in content['annotations']:
        annotation['category_id'] = new[annotation['category_id']]
    write(tmp_path / 'annotations/train.json', content)
    assert find(tmp_path).classes == NAMES
