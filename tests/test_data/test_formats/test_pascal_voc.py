"""Datasets of Pascal VOC: splits, pairs of files, and what cannot be read."""

import json
import math

import pytest
from PIL import Image

from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.errors import InputError

BOX = '<bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>11</xmax><ymax>7</ymax></bndbox>'


def write(path, objects=f'<object><name>cat</name>{BOX}</object>', filename='', size=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<annotation><filename>{filename}</filename>{size}{objects}</annotation>', 'utf-8'
    )


def draw(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


def challenge(root, count=6):
    """Writes the layout of the challenge, without lists."""
    for index in range(count):
        draw(root / f'JPEGImages/{index}.jpg')
        write(root / f'Annotations/{index}.xml')


def find(root):
    return find_own_data(root, root.parent / f'{root.name} cache')


def boxes(data, split='train'):
    content = json.loads(open(data.splits[split].ann_file).read())
    names = {category['id']: category['name'] for category in content['categories']}
    return [(names[a['category_id']], *a['bbox']) for a in content['annotations']]


def test_without_splits_a_part_becomes_val(tmp_path):
    challenge(tmp_path, 10)
    data = find(tmp_path)
    assert {split: found.num_images for split, found in data.splits.items()} == dict(train=8, val=2)
    assert set(boxes(data) + boxes(data, 'val')) == {('cat', 1.5, 2.0, 9.5, 5.0)}
    assert find(tmp_path) == data


def test_lists_of_the_challenge(tmp_path):
    challenge(tmp_path)
    lists = tmp_path / 'ImageSets/Main'
    lists.mkdir(parents=True)
    texts = dict(
        train='0\n1\n',
        val='2\n9\n',
        trainval='0\n1\n2\n',
        test='3.jpg\n2\n',
        cat_train='0  1\n5 -1',
    )
    for name, text in texts.items():
        (lists / f'{name}.txt').write_text(text)
    data = find(tmp_path)
    counts = {split: found.num_images for split, found in data.splits.items()}
    assert counts == dict(train=2, val=1, test=1)
    absent, twice, unlisted = data.warnings
    assert absent.startswith('1 of 2 names in ImageSets/Main/val.txt have no XML file')
    assert twice.startswith('1 names of ImageSets/Main/test.txt are in a list of another split')
    assert unlisted.startswith('2 annotation files are not used, because no list of a split')
    for name in ('train', 'val'):
        (lists / f'{name}.txt').write_text('')
    assert find(tmp_path).splits['train'].num_images == 2  # 3 of trainval, 1 becomes val


@pytest.mark.parametrize('layout', ['{s}/{i}', '{s}/annotations/{i}', 'annotations/{s}/{i}'])
def test_splits_of_folders(tmp_path, layout):
    for split, count in (('train', 3), ('valid', 2), ('test', 1)):
        for index in range(count):
            draw(tmp_path / f'images/{split}/{index}.png')
            write(tmp_path / f'{layout.format(s=split, i=index)}.xml')
    data = find(tmp_path)
    counts = {split: found.num_images for split, found in data.splits.items()}
    assert counts == dict(train=3, val=2, test=1) and data.warnings == ()
    for split, folder in (('train', 'train'), ('val', 'valid')):
        assert data.splits[split].image_folder == str(tmp_path / 'images' / folder)


def test_files_that_do_not_pair_are_counted(tmp_path):
    challenge(tmp_path, 5)
    write(tmp_path / 'Annotations/gone.xml')
    draw(tmp_path / 'JPEGImages/new.jpg')
    draw(tmp_path / 'SegmentationClass/0.png')  # a mask
    alone, bare = find(tmp_path).warnings
    assert '1 of 6 Pascal VOC files have no picture' in alone and 'Annotations/gone.xml' in alone
    assert '1 pictures have no Pascal VOC file' in bare and 'JPEGImages/new.jpg' in bare


def test_the_picture_is_that_of_the_same_name_else_the_named_one(tmp_path):
    for name in ('a', 'b', 'c'):
        draw(tmp_path / f'images/{name}.jpg')
    write(tmp_path / 'xml/a.xml', filename='b.jpg')
    write(tmp_path / 'xml/1.xml', filename='D:\\pictures\\b.jpg')
    write(tmp_path / 'xml/2.xml', filename='c.jpg')
    data = find(tmp_path)
    assert data.warnings == () and data.splits['train'].num_images == 2


def test_sizes_come_from_the_file_else_from_the_picture(tmp_path):
    given = '<size><width>50</width><height>20</height><depth>3</depth></size>'
    for index, size in enumerate((given, '', given.replace('50', '0'))):
        draw(tmp_path / f'{index}.jpg')
        write(tmp_path / f'{index}.xml', size=size)
    draw(tmp_path / 'val/0.jpg')
    write(tmp_path / 'val/0.xml')
    content = json.loads(open(find(tmp_path).splits['train'].ann_file).read())
    sizes = {(image['width'], image['height']) for image in content['images']}
    assert sizes == {(50, 20), (40, 30)}


def test_shapes_other_than_boxes(tmp_path):
    turned = '<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>4</h><angle>{}</angle></robndbox>'
    polygon = '<polygon><x1>3</x1><y1>4</y1><x2>9</x2><y2>4</y2><x3>6</x3><y3>12</y3></polygon>'
    parts = f'<object><name>a</name>{BOX}<part><name>b</name>{BOX}</part></object>'
    objects = parts + ''.join(
        f'<object><name>{name}</name>{shape}</object>'
        for name, shape in (('c', turned.format(math.pi / 2)), ('d', polygon))
    )
    draw(tmp_path / '0.jpg')
    write(tmp_path / '0.xml', objects)
    draw(tmp_path / 'val/1.jpg')
    write(tmp_path / 'val/1.xml')
    found = boxes(find(tmp_path))
    assert [box[0] for box in found] == ['a', 'c', 'd']
    assert found[1][1:] == pytest.approx((18, 10, 4, 10)) and found[2][1:] == (3, 4, 6, 8)


@pytest.mark.parametrize(
    ('objects', 'message'),
    [
        (f'<object>{BOX}</object>', r'0.xml, object 1: the name of its class is missing'),
        ('<object><name>cat</name></object>', r'object 1 \(cat\): expected <bndbox> with the numb'),
        (
            f'<object><name>cat</name>{BOX.replace("11", "nan")}</object>',
            r'object 1 \(cat\): expected <bndbox>',
        ),
        ('<object><name>cat', r'0.xml is not valid XML \(.*line 1'),
        ('', 'the Pascal VOC files in .* have no boxes'),
        ('&lol;', 'is not valid XML'),
    ],
)
def test_files_that_cannot_be_used(tmp_path, objects, message):
    draw(tmp_path / '0.jpg')
    write(tmp_path / '0.xml', objects)
    with pytest.raises(InputError, match=message):
        find(tmp_path)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_entities_are_refused(tmp_path, encoding):
    draw(tmp_path / '0.jpg')
    entities = ''.join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    text = f'<!DOCTYPE annotation [<!ENTITY a0 "a">{entities}]><annotation>&a9;</annotation>'
    (tmp_path / '0.xml').write_text(text, encoding)
    with pytest.raises(InputError, match='0.xml defines entities, which are not read'):
        find(tmp_path)


def test_without_pictures(tmp_path):
    write(tmp_path / 'annotations/0.xml', filename='0.jpg')
    with pytest.raises(InputError, match=r"1 Pascal VOC files, but none .* names '0.jpg'"):
        find(tmp_path)


def test_the_raccoons_arrive(shared, tmp_path):
    data = find_own_data(shared / 'data/raccoon', tmp_path)
    assert data.classes == ('raccoon',) and data.warnings == ()
    assert {s: found.num_images for s, found in data.splits.items()} == dict(train=160, val=40)
    assert len(boxes(data)) + len(boxes(data, 'val')) == 217
