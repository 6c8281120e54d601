"""What a step learns from the teacher: from which views and weights, and with which labels."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.hooks import EarlyStoppingHook
from mmengine.structures import InstanceData

from mmdet_dinov2.data.seeded import SeededDataset, UnlabeledStream
from mmdet_dinov2.engine.hooks import teacher as teacher_module
from mmdet_dinov2.engine.hooks.ema import TrainedEMAHook
from mmdet_dinov2.engine.hooks.teacher import TeacherHook
from mmdet_dinov2.engine.teacher.label_rates import boxes_per_image, boxes_per_view
from mmdet_dinov2.sample_meta import IMAGE_WEIGHT, TEACHER_VIEW, UNSURE_BOXES

from ..tiny import data_sample, randomize, tiny_detector


class Labeled:
    """Ten images with two boxes of class 0 each, and one of class 1 in the first of them.

    Their views have one box.
    """

    metainfo = dict(classes=('cat', 'dog'))

    def __len__(self):
        return 10

    def get_data_info(self, row):
        labels = [0, 0, 1] if row == 0 else [0, 0]
        ignored = dict(bbox_label=1, ignore_flag=1)
        return dict(instances=[dict(bbox_label=label) for label in labels] + [ignored])

    def __getitem__(self, row):
        return dict(inputs=None, data_samples=data_sample(30, 40, 1))


class TwoBoxes(Labeled):
    def __getitem__(self, row):
        return dict(inputs=None, data_samples=data_sample(30, 40, 2))


@pytest.fixture
def runner():
    """A run of 20 steps of a detector whose weights are not their average."""
    model = tiny_detector().train()
    average = TrainedEMAHook(momentum=0.5)
    stream = UnlabeledStream(num_photos=6, first_index=10, per_step=2)
    runner = SimpleNamespace(
        model=model,
        hooks=[average],
        iter=0,
        max_iters=20,
        train_dataloader=SimpleNamespace(
            dataset=SeededDataset(Labeled()),
            batch_sampler=SimpleNamespace(unlabeled=stream, seed=0),
        ),
        train_loop=SimpleNamespace(step=SimpleNamespace(counters={})),
        optim_wrapper=SimpleNamespace(optim_context=lambda model: nullcontext()),
        logger=SimpleNamespace(info=lambda text: None),
    )
    average.before_run(runner)
    average.after_train_iter(runner, 0)
    randomize(model)
    return runner


@pytest.mark.parametrize(('step', 'weight'), [(10, 0.5), (12, 1.5), (17, 2.0)])
def test_a_step_learns_what_the_average_sees_in_the_weak_views(runner, monkeypatch, step, weight):
    hook = TeacherHook(burn_in=0.5, ramp_up=0.2, weight=2.0)
    hook.before_train(runner)
    runner.iter = step
    boxes = torch.tensor([[1, 2, 20, 21], [5, 5, 30, 29], [1, 3, 20, 21], [2, 2, 9, 9]]).float()
    found = dict(bboxes=boxes, scores=torch.tensor([0.9, 0.25, 0.8, 0.04]), labels=torch.arange(4))
    found['labels'] = torch.tensor([0, 0, 0, 1])
    empty = {name: values[:0] for name, values in found.items()}
    seen = []

    def predict(model, views, weights, precision):
        seen.append((model, views, weights))
        both = (found, empty) if len(views) == 2 else [empty] * len(views)
        return [DetDataSample(pred_instances=InstanceData(**one)) for one in both]

    monkeypatch.setattr(teacher_module, 'predict_views', predict)
    samples = [data_sample(30, 40, 1) for _ in range(5)]
    weak = [torch.full((3, 30, 40), place, dtype=torch.uint8) for place in range(2)]
    for sample, view in zip(samples[3:], weak, strict=True):
        sample.set_field(view, TEACHER_VIEW)
    labels = [sample.gt_instances.clone() for sample in samples]
    images = [torch.full((3, 30, 40), 100 + place, dtype=torch.uint8) for place in range(5)]
    hook.before_train_iter(runner, 0, dict(inputs=images, data_samples=samples))

    (model, views, weights), *compared = seen
    assert model is runner.model and [id(view) for view in views] == [id(view) for view in weak]
    average = dict(runner.hooks[0].ema_model.module.named_parameters())
    assert weights.keys() == average.keys()
    assert all(torch.equal(weights[name], average[name]) for name in average)
    for sample, before in zip(samples[:3], labels, strict=False):
        assert torch.equal(sample.gt_instances.bboxes, before.bboxes)
        assert IMAGE_WEIGHT not in sample.metainfo
    # Of the third box, the first is the same object; the fourth is background.
    taught, nothing = samples[3:]
    assert torch.equal(taught.gt_instances.bboxes.tensor, boxes[:1])
    assert taught.gt_instances.labels.tolist() == [0]
    assert torch.equal(taught.get(UNSURE_BOXES), boxes[1:2])
    assert taught.metainfo[IMAGE_WEIGHT] == pytest.approx(weight)
    assert len(nothing.gt_instances) == 0 and nothing.metainfo[IMAGE_WEIGHT] == 0
    assert all(TEACHER_VIEW not in sample for sample in samples)
    # Every 50 steps the labeled images are compared too.
    assert [len(views) for _, views, _ in compared] == ([3] if step == 10 else [])


def test_early_stopping_waits_for_the_full_weight_of_photos(runner):
    hook = TeacherHook(burn_in=0.5, ramp_up=0.2)
    stopping = EarlyStoppingHook(monitor='ap', rule='greater', patience=2)
    runner.hooks.append(stopping)
    runner.train_loop.stop_training = False
    hook.before_train(runner)
    stopped = []
    for done, score in ((4, 0.5), (8, 0.4), (12, 0.4), (16, 0.4), (20, 0.4), (24, 0.4)):
        runner.iter = done
        for one in (hook, stopping):
            one.after_val_epoch(runner, dict(ap=score))
        stopped.append(runner.train_loop.stop_training)
    assert stopped == [False] * 3 + [False, True, True] and runner.iter == 24
    assert stopping.best_score == 0.5


def test_a_resumed_run_expects_what_the_run_expected(runner):
    """Transforms that are switched for the last epochs leave other numbers of boxes."""
    hook, resumed, checkpoint = TeacherHook(), TeacherHook(), {}
    hook.before_train(runner)
    hook.before_save_checkpoint(runner, checkpoint)
    runner.resumes = True
    resumed.after_load_checkpoint(runner, checkpoint)
    runner.train_dataloader.dataset = SeededDataset(TwoBoxes())
    resumed.before_train(runner)
    again = {}
    resumed.before_save_checkpoint(runner, again)
    assert torch.equal(
        again['teacher']['thresholds']['expected'], checkpoint['teacher']['thresholds']['expected']
    )
    new = TeacherHook()
    new.before_train(runner)
    new.before_save_checkpoint(runner, again)
    assert not torch.equal(
        again['teacher']['thresholds']['expected'], checkpoint['teacher']['thresholds']['expected']
    )


def test_views_have_their_share_of_the_boxes():
    data = Labeled()
    assert np.allclose(boxes_per_image(data, 3), [2, 0.1, 0])
    assert np.allclose(boxes_per_view(SeededDataset(data), 3, seed=0), np.array([2, 0.1, 0]) / 2.1)
