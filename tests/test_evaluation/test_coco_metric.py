"""The box metric against mmdet's."""

import json
import multiprocessing
import os

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.evaluation import ClassNameCocoMetric, gathering
from mmdet_dinov2.evaluation.image_results import pack

CLASSES = ('cat', 'dog', 'red fox')


def random_content(seed, num_images=30, category_ids=(40, 5, 17)):
    """Returns annotations with crowds, empty images, boxes of all sizes, and ids in no order."""
    rng = np.random.default_rng(seed)
    images = [
        dict(id=int(i) * 7 + 3, file_name=f'{i}.jpg', width=300, height=200)
        for i in rng.permutation(num_images)
    ]
    annotations = []
    for image in images:
        for _ in range(int(rng.integers(0, 6))):
            w, h = rng.choice([12, 40, 110], 2) * rng.uniform(0.8, 1.2, 2)
            x, y = rng.uniform(0, 180), rng.uniform(0, 90)
            annotations.append(
                dict(
                    id=1000 - len(annotations),
                    image_id=image['id'],
                    category_id=int(rng.choice(category_ids)),
                    bbox=[float(x), float(y), float(w), float(h)],
                    area=float(w * h),
                    iscrowd=int(rng.uniform() < 0.1),
                )
            )
    categories = [dict(id=i, name=n) for i, n in zip(category_ids, CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def predictions_for(content, seed, classes=CLASSES):
    """Returns data samples: shifted boxes, some with a wrong class, and some without a true box."""
    rng = np.random.default_rng(seed)
    names = {category['id']: category['name'] for category in content['categories']}
    samples = []
    for image in content['images']:
        boxes, labels = [], []
        for annotation in content['annotations']:
            if annotation['image_id'] != image['id'] or rng.uniform() < 0.15:
                continue
            x, y, w, h = annotation['bbox']
            box = np.array([x, y, x + w, y + h]) + rng.normal(0, 0.08, 4) * [w, h, w, h]
            label = classes.index(names[annotation['category_id']])
            boxes.append(box)
            labels.append(label if rng.uniform() < 0.8 else int(rng.integers(len(classes))))
        for _ in range(int(rng.integers(0, 3))):
            x, y, w, h = rng.uniform(10, 90, 4)
            boxes.append(np.array([x, y, x + w, y + h]))
            labels.append(int(rng.integers(len(classes))))
        samples.append(sample(image, boxes, labels, rng.uniform(0.05, 1, len(boxes))))
    return samples


def sample(image, boxes=(), labels=(), scores=()):
    data_sample = DetDataSample(
        metainfo=dict(img_id=image['id'], ori_shape=(image['height'], image['width']))
    )
    data_sample.pred_instances = InstanceData(
        bboxes=torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.tensor(np.array(scores), dtype=torch.float32),
    )
    return data_sample


def evaluate(metric, samples, classes=CLASSES):
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, [entry.to_dict() for entry in samples])
    return metric.evaluate(len(samples))


def write(folder, content, name='val.json'):
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def assert_as_mmdet(path, samples, classes):
    ours = evaluate(ClassNameCocoMetric(path), samples, classes)
    theirs = evaluate(CocoMetric(path, classwise=True), samples, classes)
    assert ours.keys() == theirs.keys()
    assert 0.1 < ours['coco/bbox_mAP'] < 0.9
    for key, value in theirs.items():  # which mmdet rounds
        assert ours[key] == pytest.approx(value, abs=5.01e-4), key


@pytest.mark.parametrize('seed', [0, 1])
def test_the_numbers_are_those_of_mmdet(tmp_path, seed):
    # Ascending ids: with others, mmdet's table of classes mixes up the AP of classes.
    content = random_content(seed, category_ids=(5, 17, 40))
    assert_as_mmdet(write(tmp_path, content), predictions_for(content, seed), CLASSES)


def test_the_numbers_are_those_of_mmdet_on_real_data(shared):
    path = shared / 'data/bccd/annotations/val.json'
    content = json.loads(path.read_text())
    classes = tuple(read_annotations(str(path)).category_names)
    assert_as_mmdet(str(path), predictions_for(content, 0, classes), classes)


def test_no_predictions_are_a_result(tmp_path):
    content = random_content(0)
    path = write(tmp_path, content)
    metric = ClassNameCocoMetric(path, outfile_prefix=str(tmp_path / 'out'))
    found = evaluate(metric, [sample(image) for image in content['images']])
    assert found['coco/bbox_mAP'] == found['coco/cat_precision'] == 0
    assert json.loads((tmp_path / 'out.bbox.json').read_text()) == []


def test_no_boxes_to_find_are_minus_one_as_in_coco(tmp_path):
    content = dict(random_content(0), annotations=[])
    samples = predictions_for(random_content(0), 0)
    found = evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples)
    assert found['coco/bbox_mAP'] == -1 and 'coco/cat_precision' not in found


def test_classes_are_found_by_name(tmp_path):
    content = random_content(0)
    reordered = ('red fox', 'cat', 'dog')
    expected = evaluate(ClassNameCocoMetric(write(tmp_path, content)), predictions_for(content, 0))
    # The same detections, their labels in a different order.
    samples = predictions_for(content, 0)
    for entry in samples:
        labels = [reordered.index(CLASSES[label]) for label in entry.pred_instances.labels]
        entry.pred_instances.labels = torch.tensor(labels, dtype=torch.long)
    metric = ClassNameCocoMetric(str(tmp_path / 'val.json'), outfile_prefix=str(tmp_path / 'out'))
    assert evaluate(metric, samples, reordered) == pytest.approx(expected)
    names = {category['id']: category['name'] for category in content['categories']}
    written = [
        names[row['category_id']] for row in json.loads((tmp_path / 'out.bbox.json').read_text())
    ]
    samples.sort(key=lambda entry: entry.img_id)
    labels = [reordered[label] for entry in samples for label in entry.pred_instances.labels]
    assert written == labels


def test_missing_fields_are_filled_in(tmp_path):
    content = random_content(0)
    for annotation in content['annotations']:
        annotation['iscrowd'] = 0
    samples = predictions_for(content, 0)
    expected = evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples)
    for annotation in content['annotations']:
        del annotation['iscrowd'], annotation['area']
    assert evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples) == expected


def test_ids_may_be_strings_and_zero(tmp_path):
    content = random_content(0)
    samples = predictions_for(content, 0)
    expected = evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples)
    for index, annotation in enumerate(content['annotations']):
        annotation.update(id=index, image_id=str(annotation['image_id']))
    for image, entry in zip(content['images'], samples):
        image['id'] = str(image['id'])
        entry.set_metainfo(dict(img_id=image['id']))
    assert evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples) == expected


def test_only_the_images_that_came_are_scored(tmp_path):
    content = random_content(0)
    samples = predictions_for(content, 0)
    path = write(tmp_path, content)
    ids = {image['id'] for image in content['images'][:10]}
    half = dict(
        content,
        images=content['images'][:10],
        annotations=[a for a in content['annotations'] if a['image_id'] in ids],
    )
    expected = evaluate(ClassNameCocoMetric(write(tmp_path, half, 'half.json')), samples[:10])
    assert evaluate(ClassNameCocoMetric(path), samples[:10]) == expected
    # Images that a distributed sampler repeats, so that all processes get as many, count once.
    assert evaluate(ClassNameCocoMetric(path), samples[:10] + samples[:2]) == expected


def test_annotations_may_come_with_the_samples(tmp_path):
    content = random_content(0)
    for annotation in content['annotations']:
        annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    samples = predictions_for(content, 0)
    expected = evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples)
    labels = {category['id']: label for label, category in enumerate(content['categories'])}
    for image, entry in zip(content['images'], samples):
        instances = []
        for a in content['annotations']:
            if a['image_id'] == image['id']:
                x, y, w, h = a['bbox']
                instances.append(
                    dict(
                        bbox=[x, y, x + w, y + h],
                        bbox_label=labels[a['category_id']],
                        ignore_flag=a['iscrowd'],
                    )
                )
        entry.set_metainfo(dict(instances=instances))
    found = evaluate(ClassNameCocoMetric(), samples)
    assert found == pytest.approx(expected)


def test_annotations_that_come_from_nowhere():
    samples = predictions_for(random_content(0), 0)
    with pytest.raises(InputError, match="no ann_file and the samples lack 'instances'"):
        evaluate(ClassNameCocoMetric(), samples)


def of_processes(path, shares):
    """Returns what the metric says in real processes, each of which has a share of the samples.

    The main process notes what it got instead of scoring it: the threads of hotcoco do not live on
    in a process that is forked.
    """
    folder = os.path.dirname(path)
    metrics = []
    for samples in shares:
        metric = ClassNameCocoMetric(path)
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, [entry.to_dict() for entry in samples])
        metrics.append(metric)

    def compute(parts):
        for rank, part in enumerate(parts):
            np.savez(f'{folder}/part{rank}.npz', **part)
        return dict(parts=len(parts))

    def work(rank):
        torch.distributed.init_process_group(
            'gloo', f'file://{folder}/store', rank=rank, world_size=len(shares)
        )
        metrics[rank].compute_metrics = compute
        said = metrics[rank].evaluate(size=1)
        assert metrics[rank].results == []
        with open(f'{folder}/said{rank}.json', 'w') as file:
            json.dump(said, file)
        os._exit(0)

    fork = multiprocessing.get_context('fork')
    processes = [fork.Process(target=work, args=(rank,)) for rank in range(len(shares))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank in range(len(shares)):
        with open(f'{folder}/said{rank}.json') as file:
            assert json.load(file) == {'coco/parts': len(shares)}
    parts = [dict(np.load(f'{folder}/part{rank}.npz')) for rank in range(len(shares))]
    return parts, metrics[0].compute_metrics(parts)


def test_the_scores_do_not_depend_on_processes_and_order(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, '_CHUNK', 1000)  # several rounds
    content = random_content(0)
    path = write(tmp_path, content)
    samples = predictions_for(content, 0)
    for entry in samples:  # ties, which the order of images decides
        entry.pred_instances.scores = entry.pred_instances.scores.round(decimals=1)
    expected = evaluate(ClassNameCocoMetric(path), samples)
    assert evaluate(ClassNameCocoMetric(path), samples[::-1]) == expected
    # A sampler that gives all processes as many images repeats the first ones; one has none.
    padded = [*samples, samples[0], samples[1]]
    shares = [padded[0::2], [], padded[1::2]]
    parts, found = of_processes(path, shares)
    assert {f'coco/{key}': value for key, value in found.items()} == expected
    assert all(array.dtype != object for part in parts for array in part.values())


def test_boxes_of_half_precision_are_taken(tmp_path):
    content = random_content(0)
    path = write(tmp_path, content)
    samples = predictions_for(content, 0)
    for entry in samples:
        found = entry.pred_instances
        found.bboxes, found.scores = found.bboxes.bfloat16(), found.scores.bfloat16()
    metric = ClassNameCocoMetric(path)
    metric.process({}, [entry.to_dict() for entry in samples])
    packed = pack(metric.results)
    boxes = torch.cat([entry.pred_instances.bboxes for entry in samples])
    assert packed['found_boxes'].tolist() == boxes.tolist()
    assert packed['found_boxes'].dtype == packed['found_scores'].dtype == np.float32


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(metric=['bbox', 'proposal']),
            r"must be 'bbox', 'segm' or both, but is \['bbox', 'proposal'\]; for others take "
            r"mmdet's metric: val_evaluator=dict\(type='CocoMetric', "
            r"metric=\['bbox', 'proposal'\]\)",
        ),
        (dict(format_only=True), 'format_only=True needs outfile_prefix'),
        (dict(metric_items=['AR@7']), r"must be among .*, but has \['AR@7'\]"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        ClassNameCocoMetric(**arguments)


def test_wrong_files(tmp_path):
    content = random_content(0)
    samples = predictions_for(content, 0)
    with pytest.raises(InputError, match=r"the classes \['wolf'\] are not among the categories"):
        evaluate(ClassNameCocoMetric(write(tmp_path, content)), samples, ('cat', 'dog', 'wolf'))
    with pytest.raises(InputError, match='the evaluation got no images'):
        evaluate(ClassNameCocoMetric(write(tmp_path, content)), [])
    half = dict(content, images=content['images'][:20])
    half['annotations'] = []
    with pytest.raises(InputError, match='does not list 10 of the evaluated images, first that of'):
        evaluate(ClassNameCocoMetric(write(tmp_path, half)), samples)
    del content['annotations']
    path = write(tmp_path, content)
    with pytest.raises(InputError, match="has no 'annotations' to score against"):
        ClassNameCocoMetric(path)
    metric = ClassNameCocoMetric(path, format_only=True, outfile_prefix=str(tmp_path / 'out'))
    assert evaluate(metric, samples) == {}
    assert (tmp_path / 'out.bbox.json').exists()


def test_the_report_is_written(tmp_path):
    content = random_content(0)
    metric = ClassNameCocoMetric(write(tmp_path, content), report_dir=str(tmp_path / 'report'))
    metric.bad_images = (('a.jpg', 'the file is cut off'),)
    found = evaluate(metric, predictions_for(content, 0))
    report = json.loads((tmp_path / 'report/evaluation.json').read_text())
    assert report['num_images'] == 30
    assert report['bad_images'] == [dict(path='a.jpg', reason='the file is cut off')]
    assert [entry['name'] for entry in report['classes']] == list(CLASSES)
    assert report['classes'][0]['ap'] == found['coco/cat_precision']
    assert report['confusions']['labels'] == [*CLASSES, 'background']
    pictures = {path.name for path in (tmp_path / 'report').glob('*.png')}
    assert pictures == {'precision_recall.png', 'confusion_matrix.png', 'class_ap.png'}


def crowded(num_boxes):
    """Two images, of which the first has so many boxes, and detections that find all of them."""
    images = [dict(id=i, file_name=f'{i}.jpg', width=900, height=900) for i in (1, 2)]
    boxes = [[30.0 * (i % 30), 30.0 * (i // 30), 20.0, 20.0] for i in range(num_boxes)]
    annotations = [
        dict(id=i + 1, image_id=1, category_id=1, bbox=box, area=400.0, iscrowd=0)
        for i, box in enumerate(boxes)
    ]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='cat')])
    corners = np.array(boxes) + [0, 0, 1, 1] * np.array(boxes)[:, [0, 1, 0, 1]]
    scores = np.linspace(1, 0.5, num_boxes)
    samples = [sample(images[0], corners, [0] * num_boxes, scores), sample(images[1])]
    return content, samples


def test_as_many_detections_count_as_an_image_has_boxes(tmp_path):
    content, samples = crowded(250)
    path = write(tmp_path, content)
    values = evaluate(ClassNameCocoMetric(path), samples, ('cat',))
    assert values['coco/bbox_mAP'] == values['coco/bbox_mAP_s'] == pytest.approx(1)
    assert values['coco/bbox_mAP@100'] == pytest.approx(0.4, abs=0.01)
    theirs = evaluate(CocoMetric(path), samples, ('cat',))
    assert values['coco/bbox_mAP@100'] == pytest.approx(theirs['coco/bbox_mAP'], abs=5e-4)
    # What the config says has the last word.
    fixed = evaluate(ClassNameCocoMetric(path, proposal_nums=(100, 300)), samples, ('cat',))
    assert fixed['coco/bbox_mAP'] == values['coco/bbox_mAP@100']
    assert 'coco/bbox_mAP@100' not in fixed
    some = ClassNameCocoMetric(path, metric_items=['mAP@100', 'AR@1000'])
    assert evaluate(some, samples, ('cat',))['coco/bbox_AR@1000'] == pytest.approx(1)


def test_more_than_a_thousand_boxes(tmp_path):
    content, samples = crowded(1100)
    metric = ClassNameCocoMetric(write(tmp_path, content))
    assert evaluate(metric, samples, ('cat',))['coco/bbox_mAP'] == pytest.approx(1, abs=1e-6)
    assert list(metric.proposal_nums) == [100, 300, 1100]
    few, samples = crowded(100)
    values = evaluate(ClassNameCocoMetric(write(tmp_path, few)), samples, ('cat',))
    assert 'coco/bbox_mAP@100' not in values and values['coco/bbox_mAP'] == pytest.approx(1)
