"""Reading of annotation files into columns: what they hold, how often a file is read."""

import json
import random
import time

import pytest
from mmdet.registry import DATASETS

from mmdet_dinov2.data import annotation_file
from mmdet_dinov2.data.annotation_file import read_annotations, read_entries
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.evaluation import ClassNameCocoMetric

from ..columns import columns_of_entries
from .helpers import coco_content

NAMES = ['a.jpg', 'ä/ö.png', '狐.jpg', '}, {', 'a"b\\.jpg', '0']
SEGMENTATIONS = [
    [[1, 2, 3, 4, 5, 6.5]],
    dict(counts='a}, {b', size=[4, 4]),
    dict(counts=[{}, {}], size=[4, 4]),
    [],
    None,
]


def random_content(rng, text_ids):
    """Returns a sound file with everything that is allowed."""
    ids, names = [*range(40), -3, 2**62], NAMES
    if text_ids:
        ids += ['7', 'x', '', '}, {', 2**70]
    if rng.random() < 0.2:
        names = ['not UTF-8: \udce9.jpg']
    images = [
        dict(
            license=[{}, dict(a='}, {')],
            id=key,
            file_name=rng.choice(names),
            width=rng.choice([40, 40.0, 33.5]),
            height=rng.choice([30, 1]),
        )
        for key in rng.sample(ids, rng.randrange(9))
    ]
    categories = [dict(id=key, name=f'class {key}', supercategory='') for key in rng.sample(ids, 3)]
    annotations = []
    for key in rng.sample(ids, rng.randrange(15)):
        annotation = dict(
            image_id=rng.choice(ids),
            bbox=[rng.choice([0, 1, 2.5, -3, 1e-3, 0.1, 123456.789]) for _ in range(3)] + [3],
            segmentation=rng.choice(SEGMENTATIONS),
            category_id=rng.choice(ids),
            id=key,
        )
        for name, values in (
            ('area', [0, 5, 2.25, -1]),
            ('iscrowd', [0, 1, True]),
            ('ignore', [0, 1, False]),
        ):
            if rng.random() < 0.5:
                annotation[name] = rng.choice(values)
        annotations.append(annotation)
    content = dict(info=dict(x=[{}, {}]), images=images, categories=categories)
    content['annotations'] = annotations
    return dict(rng.sample(sorted(content.items()), len(content)))


def expected_annotation(annotation):
    entry = {key: annotation[key] for key in ('id', 'image_id', 'category_id', 'bbox')}
    _, _, width, height = annotation['bbox']
    entry.update(
        area=annotation.get('area', width * height),
        iscrowd=annotation.get('iscrowd', 0),
        ignore=annotation.get('ignore', 0),
    )
    if annotation['segmentation']:
        entry['segmentation'] = annotation['segmentation']
    return entry


@pytest.mark.parametrize('text_ids', [False, True])
@pytest.mark.parametrize('piece', [1, 60, 400, 2**22])
def test_columns_say_what_the_file_says(tmp_path, monkeypatch, piece, text_ids):
    monkeypatch.setattr(annotation_file, '_PIECE', piece)
    path = tmp_path / 'a.json'
    for seed in range(25):
        content = random_content(random.Random(seed), text_ids)
        separators = (',', ':') if seed % 2 else (', ', ': ')
        path.write_text(json.dumps(content, indent=seed % 3 or None, separators=separators))
        columns = read_annotations(str(path), segmentations=True)
        images, annotations = content['images'], content['annotations']
        keys = ('id', 'file_name', 'width', 'height')
        found = [columns.image(index) for index in range(columns.num_images)]
        assert found == [{key: image[key] for key in keys} for image in images]
        assert all(type(image['width']) is int for image in found if image['width'] == 40)
        found = [columns.annotation(index) for index in range(columns.num_annotations)]
        assert found == [expected_annotation(annotation) for annotation in annotations]
        assert columns.categories == content['categories'] and columns.annotated
        assert columns.has_area.tolist() == ['area' in a for a in annotations]
        assert columns.has_iscrowd.tolist() == ['iscrowd' in a for a in annotations]
        for index, image in enumerate(images):
            of_image = [i for i, a in enumerate(annotations) if a['image_id'] == image['id']]
            assert columns.annotations_of(index).tolist() == of_image
            assert columns.image_positions[image['id']] == index
        assert read_entries(str(path)) == content


@pytest.mark.parametrize('separators', [(',', ':'), (' , ', ' : ')])
def test_sound_entries_are_not_looked_at_one_by_one(tmp_path, monkeypatch, separators):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(coco_content(num_images=5), separators=separators))
    looked_at, look = [], annotation_file.find_problems
    monkeypatch.setattr(
        annotation_file, 'find_problems', lambda *args: looked_at.append(args[0]) or look(*args)
    )
    for piece in (1, 150, 2**22):
        monkeypatch.setattr(annotation_file, '_PIECE', piece)
        assert read_annotations(str(path)).num_annotations == 15
    assert looked_at == ['categories'] * 3


FAULTS = {
    'box': ('annotations', dict(bbox=[1, 2, 3])),
    'text in a box': ('annotations', dict(bbox=[1, 2, 3, '4'])),
    'NaN': ('annotations', dict(bbox=[1, 2, 3, float('nan')])),
    'large box': ('annotations', dict(bbox=[1, 2, 3, 1e12])),
    'infinite box': ('annotations', dict(bbox=[1, 2, 3, 10**400])),
    'no area': ('annotations', dict(area=None)),
    'large area': ('annotations', dict(area=-1e13)),
    'true as area': ('annotations', dict(area=True)),
    'crowd of 2': ('annotations', dict(iscrowd=2)),
    'crowd of 1.0': ('annotations', dict(iscrowd=1.0)),
    'no crowd': ('annotations', dict(iscrowd=None)),
    'ignore': ('annotations', dict(ignore='1')),
    'id of 1.0': ('annotations', dict(image_id=1.0)),
    'true as id': ('annotations', dict(category_id=True)),
    'list as id': ('annotations', dict(id=[1])),
    'id twice': ('annotations', dict(id=2)),
    'no name': ('images', dict(file_name='')),
    'number as name': ('images', dict(file_name=5)),
    'no width': ('images', dict(width=0)),
    'negative height': ('images', dict(height=-3)),
    'large height': ('images', dict(height=1e15)),
    'text as width': ('images', dict(width='40')),
    'true as width': ('images', dict(width=True)),
    'image twice': ('images', dict(id=11)),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_has_the_same_words_wherever_it_is(tmp_path, monkeypatch, fault):
    """In one piece or another, and in a file that only Python's parser reads."""
    section, change = FAULTS[fault]
    content = coco_content(num_images=5)
    content[section][3].update(change)
    path = tmp_path / 'a.json'
    messages = set()
    for piece, info in ((2**22, ''), (1, ''), (200, ''), (2**22, float('nan'))):
        monkeypatch.setattr(annotation_file, '_PIECE', piece)
        path.write_text(json.dumps(dict(content, info=info)))
        with pytest.raises(InputError) as caught:
            read_annotations(str(path))
        messages.add(str(caught.value))
    (message,) = messages
    assert f'{section}[3]' in message or 'more than once' in message


def test_every_fault_is_counted_across_pieces(tmp_path, monkeypatch):
    content = coco_content(num_images=5)
    for index in (1, 7, 12):
        content['annotations'][index]['bbox'] = None
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    monkeypatch.setattr(annotation_file, '_PIECE', 1)
    with pytest.raises(InputError, match=r'bbox None in annotations\[1\] .* 2 more such entries: '):
        read_annotations(str(path))


def test_what_other_fields_say_is_filled_in_across_pieces(tmp_path, monkeypatch):
    content = coco_content(num_images=5)
    for index in (1, 7):
        content['annotations'][index].update(bbox=[0, 0, 0, 0], segmentation=[[1, 2, 4, 2, 4, 7]])
    content['images'][2].update(file_name=None, coco_url='http://a/b/2.jpg')
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    monkeypatch.setattr(annotation_file, '_PIECE', 1)
    columns = read_annotations(str(path))
    assert columns.derived == dict(bbox=2, file_name=1)
    assert columns.boxes[7].tolist() == [1, 2, 3, 5] and columns.file_names[2] == 'b/2.jpg'


def test_sizes_may_be_missing_only_where_the_caller_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_file, '_TICK', 0)
    content = coco_content()
    content['images'][1].update(width=None)
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    assert read_annotations(str(path), sizes=False).widths.tolist() == [40, 0, 40]
    # Also if the columns are known already.
    with pytest.raises(InputError, match=r'width None in images\[1\]'):
        read_annotations(str(path))


def test_segmentations_are_read_for_those_who_ask(tmp_path):
    content = coco_content()
    content['annotations'][1]['segmentation'] = [[1, 2, 3, 4, 5, 6]]
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    assert read_annotations(str(path)).segmentations is None
    columns = read_annotations(str(path), segmentations=True)
    assert 'segmentation' not in columns.annotation(0)
    assert columns.annotation(1)['segmentation'] == [[1, 2, 3, 4, 5, 6]]


def test_no_annotations_and_no_images(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('{"images": [ ], "categories": []}')
    columns = read_annotations(str(path))
    assert (columns.num_images, columns.num_annotations, columns.annotated) == (0, 0, False)
    path.write_text('{"images": [], "annotations":[\n], "categories": []}')
    assert read_annotations(str(path)).annotated
    empty = columns_of_entries('a.json', [], [], None)
    assert empty.boxes.shape == (0, 4) and empty.starts.tolist() == [0]


@pytest.fixture
def reads(monkeypatch):
    """The paths that are read, not known from before."""
    paths = []
    read = annotation_file._Reader.read
    monkeypatch.setattr(
        annotation_file._Reader, 'read', lambda self: paths.append(self._path) or read(self)
    )
    return paths


@pytest.mark.parametrize('masks', [False, True])
def test_check_dataset_and_metric_read_a_file_once(data, reads, monkeypatch, masks):
    monkeypatch.setattr(annotation_file, '_TICK', 0)
    content = coco_content()
    for annotation in content['annotations'] if masks else ():
        annotation['segmentation'] = [[1, 2, 11, 2, 11, 7]]
    kinds = ['bbox', 'segm'] if masks else ['bbox']
    for split in ('train', 'val'):
        data.write(split, content)
        data.cfg[f'{split}_evaluator'] = dict(type='ClassNameCocoMetric', metric=kinds)
    data.cfg.test_evaluator = data.cfg.val_evaluator
    for split in ('train', 'val', 'test'):
        data.cfg[f'{split}_dataloader'].dataset.type = 'ClassNameCocoDataset'
        data.cfg[f'{split}_dataloader'].dataset.pipeline = [
            dict(type='LoadAnnotations', with_bbox=True, with_mask=masks and split == 'train')
        ]
    assert data.check() == []
    for split in ('train', 'val', 'test'):
        DATASETS.build(data.cfg[f'{split}_dataloader'].dataset)
    ClassNameCocoMetric(str(data.path('val')), metric=kinds)
    assert sorted(reads) == [str(data.path('train')), str(data.path('val'))]


def test_a_changed_file_is_read_again(data, reads, monkeypatch):
    monkeypatch.setattr(annotation_file, '_TICK', 0)
    path = str(data.path('train'))
    assert read_annotations(path) is read_annotations(path)
    time.sleep(0.02)  # file systems count in ticks
    text = data.path('train').read_text()
    data.path('train').write_text(text.replace('40', '41'))
    assert read_annotations(path).widths[0] == 41 and len(reads) == 2


def test_a_file_that_has_just_been_written_is_not_taken_as_known(data, reads, monkeypatch):
    path = str(data.path('train'))
    for seconds in (0, 1.5, 3):
        reads.clear()
        # Full seconds stand for a clock that has no others.
        monkeypatch.setattr(
            annotation_file, '_state', lambda path: (path, 9, 5 * 10**9, 4 * 10**9, 0, 0)
        )
        monkeypatch.setattr(time, 'time_ns', lambda now=seconds: int((5 + now) * 10**9))
        for _ in range(2):
            read_annotations(path)
        assert len(reads) == (1 if seconds == 3 else 2)


def test_a_file_that_changes_while_it_is_read_is_not_taken_as_known(data, monkeypatch):
    monkeypatch.setattr(annotation_file, '_TICK', 0)
    path = data.path('train')
    text, read = path.read_text(), annotation_file._Reader.read

    def change_and_read(self):
        columns = read(self)
        path.write_text(text.replace('40', '410'))
        return columns

    monkeypatch.setattr(annotation_file._Reader, 'read', change_and_read)
    assert read_annotations(str(path)).widths[0] == 40
    monkeypatch.setattr(annotation_file._Reader, 'read', read)
    assert read_annotations(str(path)).widths[0] == 410
