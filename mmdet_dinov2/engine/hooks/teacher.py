"""Labels the unlabeled photos of a step before the step is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.dist import all_reduce
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...checkpoint import inner_model
from ...errors import InputError
from ...instance_masks import decode_mask, run_lengths
from ...runs.pseudo_labels import LOGGED
from ...sample_meta import IMAGE_WEIGHT, TEACHER_VIEW, UNSURE_BOXES
from ..teacher.label_rates import boxes_per_view
from ..teacher.models import load_teacher, predict_views
from ..teacher.quality import PseudoQuality, count_agreement, from_counts
from ..teacher.thresholds import ClassThresholds, TeacherBoxes

_PREFIX = 'teacher_'
# Key of checkpoints.
_STATE = 'teacher'


@HOOKS.register_module()
class TeacherHook(Hook):
    """Lets a teacher label the unlabeled photos of each step; the student learns from these labels.

    The teacher is the average of the weights (mean teacher, arXiv:1703.01780), or a checkpoint that
    does not change (distillation). It sees the weak view of a photo. Boxes that it is sure of
    become labels of the strong view, which is the image of the sample; boxes that it is not sure
    of are ignored by the losses of the background (:class:`.BatchedDINOHead`). A photo without a
    sure box has no weight.

    Labels are made before the step, so that everything behind them is an ordinary step: micro-
    batches, other processes, a step that is done again, a batch that is kept. The thresholds follow
    the photos of all processes, and a checkpoint holds them.

    Args:
        checkpoint: A trained detector as the teacher; None takes the averaged weights.
        burn_in: Share of the training, 0 to 1, that learns from labels alone; None is 0.15, and 0
            with ``checkpoint``.
        ramp_up: Share of the training after that, 0 to 1, in which the weight of photos grows.
        weight: Weight of a photo after that, beside 1 of a labeled image; above 0.
        sure_share: As for :class:`.ClassThresholds`.
        unsure_share: As for :class:`.ClassThresholds`.
        min_score: As for :class:`.ClassThresholds`.
        interval: Steps between two reports on the labels, for which the teacher also labels the
            labeled images of one step.

    Raises:
        InputError: If an argument is out of range.
    """

    # After the average of the weights, which moves at the end of a step.
    priority = 'NORMAL'

    def __init__(
        self,
        checkpoint: str | None = None,
        burn_in: float | None = None,
        ramp_up: float = 0.2,
        weight: float = 1.0,
        sure_share: float = 0.8,
        unsure_share: float = 1.5,
        min_score: float = 0.3,
        interval: int = 50,
    ) -> None:
        if burn_in is None:
            burn_in = 0.0 if checkpoint else 0.15
        for name, share in (('burn_in', burn_in), ('ramp_up', ramp_up)):
            if not 0 <= share < 1:
                raise InputError(
                    f'unlabeled.{name} is a share of the training, from 0 to below 1, but is '
                    f'{share!r}'
                )
        if not weight > 0:
            raise InputError(f'unlabeled.weight must be above 0, but is {weight!r}')
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise InputError(
                f'unlabeled.interval must be a whole number of at least 1, but is {interval!r}'
            )
        self.checkpoint = checkpoint
        self.burn_in = burn_in
        self.ramp_up = ramp_up
        self.weight = weight
        self.interval = interval
        self._rules = dict(sure_share=sure_share, unsure_share=unsure_share, min_score=min_score)
        ClassThresholds([1.0], **self._rules)  # says early what is out of range
        self._state: Mapping[str, Any] | None = None
        self._here: Counter[str] = Counter()
        self._window: Counter[str] = Counter()
        self._collapsed = ''
        self._full = 0

    # ------------------------------------------------------------------ the run

    def before_train(self, runner: Runner) -> None:
        """Finds the teacher, and when it begins to teach.

        Raises:
            InputError: If there is no teacher, or no photos.
        """
        dataset = runner.train_dataloader.dataset
        stream = getattr(runner.train_dataloader.batch_sampler, 'unlabeled', None)
        if stream is None:
            raise InputError(
                'TeacherHook needs train_dataloader.unlabeled, the photos; start the training with '
                '--unlabeled FOLDER'
            )
        self._model = inner_model(runner.model)
        if not getattr(self._model, 'weighs_images', False):
            raise InputError(
                f'unlabeled photos need a detector that weighs images, PaddingAwareDINO, but this '
                f'one is {type(self._model).__name__}'
            )
        self._classes = tuple(dataset.metainfo['classes'])
        self._teacher = None
        self._average = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
        if self.checkpoint:
            device = next(self._model.parameters()).device
            self._teacher = load_teacher(self.checkpoint, self._classes, device)
        elif self._average is None:
            raise InputError(
                'the teacher is the average of the weights, but custom_hooks has no '
                'TrainedEMAHook; add it, or name a trained detector with --teacher CHECKPOINT'
            )
        self._begin = stream.begin = round(self.burn_in * runner.max_iters)
        self._ramp = max(1, round(self.ramp_up * runner.max_iters))
        self._full = self._begin + self._ramp
        seed = runner.train_dataloader.batch_sampler.seed
        expected = boxes_per_view(dataset, len(self._classes), seed)
        self._thresholds = ClassThresholds(expected, **self._rules)
        if self._state is not None:
            self._thresholds.load_state_dict(self._state['thresholds'])
            self._window = Counter(self._state['window'])
            self._collapsed = self._state['collapsed']
        counters = runner.train_loop.step.counters
        for name in self._names():
            counters[_PREFIX + name] = lambda name=name: self._here.pop(name, 0)
        runner.logger.info(
            f'Unlabeled photos: {stream.num_photos}, {stream.per_step * stream.world_size} in each '
            f'step from step {self._begin + 1} on, full weight from step '
            f'{self._begin + self._ramp}; the teacher is '
            f'{self.checkpoint or "the average of the weights"}'
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Labels the photos of a step, in place."""
        samples = data_batch['data_samples']
        photos = [sample for sample in samples if TEACHER_VIEW in sample]
        if not photos:  # in all processes
            return
        found = self._predict(runner, [photo.pop(TEACHER_VIEW) for photo in photos])
        boxes = [self._boxes_of(sample) for sample in found]
        counts = torch.from_numpy(self._thresholds.count(boxes))
        all_reduce(counts, 'sum')
        self._thresholds.add(counts.numpy())
        limits = self._thresholds.limits()
        step = runner.iter - self._begin
        weight = self.weight * min(1.0, (step + 1) / self._ramp)
        for photo, sample, all_boxes in zip(photos, found, boxes, strict=True):
            sure, unsure = all_boxes.divide(*limits)
            label_photo(photo, sample, sure, unsure, weight)
            self._here.update(num_photos=1, num_with_boxes=int(len(sure.labels) > 0))
            self._here['num_unsure'] += len(unsure)
            self._here.update(f'boxes_{label}' for label in sure.labels.tolist())
        if step % self.interval == 0:
            ids = {id(photo) for photo in photos}
            rows = [row for row, sample in enumerate(samples) if id(sample) not in ids]
            self._compare(runner, [(data_batch['inputs'][row], samples[row]) for row in rows])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Logs what the labels were like, and says so if they have collapsed."""
        if runner.iter < self._begin:
            return
        sums = runner.train_loop.step.sums
        counts = {name: sums[_PREFIX + name] for name in self._names()}
        self._window.update(counts)
        done = runner.iter - self._begin + 1
        if done % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            window = {name: self._window[name] for name in self._names()}
            self._report(runner, from_counts(window, len(self._classes)))
            self._window.clear()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Lets early stopping, which comes after, wait until photos count fully."""
        if runner.iter < self._full:
            for hook in runner.hooks:
                if isinstance(hook, EarlyStoppingHook):
                    hook.wait_count = -1  # the hook counts this evaluation

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Puts the thresholds into the checkpoint."""
        checkpoint[_STATE] = dict(
            thresholds=self._thresholds.state_dict(),
            window=dict(self._window),
            collapsed=self._collapsed,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes the thresholds of the checkpoint that the run resumes from."""
        if runner.resumes:
            self._state = checkpoint.get(_STATE)

    # ----------------------------------------------------------------- its parts

    def _names(self) -> list[str]:
        """Returns the names of what is counted, the fields of ``PseudoQuality``."""
        plain = [name for name in PseudoQuality.__dataclass_fields__ if name != 'boxes']
        return plain + [f'boxes_{label}' for label in range(len(self._classes))]

    def _predict(self, runner: Runner, views: Sequence[Tensor]) -> list[DetDataSample]:
        precision, teacher = self._precision(runner), self._teacher
        if teacher is not None:
            return predict_views(teacher.model, views, None, precision, teacher.resize)
        weights = averaged_weights(self._model, self._average)
        return predict_views(self._model, views, weights, precision)

    def _precision(self, runner: Runner) -> AbstractContextManager:
        """Returns the precision of training steps, of which the teacher is a part."""
        return runner.optim_wrapper.optim_context(self._model)

    def _boxes_of(self, sample: DetDataSample) -> TeacherBoxes:
        found = sample.pred_instances
        labels = found.labels if self._teacher is None else self._teacher.labels[found.labels]
        return TeacherBoxes.of(found.bboxes, found.scores, labels)

    def _compare(self, runner: Runner, images: Sequence[tuple[Tensor, DetDataSample]]) -> None:
        """Counts how far the labels of the teacher agree with those of labeled images."""
        if not images:
            return
        limits = self._thresholds.limits()
        found = self._predict(runner, [image for image, _ in images])
        for prediction, (_, sample) in zip(found, images, strict=True):
            sure, _ = self._boxes_of(prediction).divide(*limits)
            truth = sample.gt_instances
            boxes = getattr(truth.bboxes, 'tensor', truth.bboxes)
            self._here['agreed'] += count_agreement(sure, boxes, truth.labels)
            self._here['predicted'] += len(sure.labels)
            self._here['labeled'] += len(boxes)

    def _report(self, runner: Runner, quality: PseudoQuality) -> None:
        step, expected = runner.iter + 1, self._thresholds.expected
        text = quality.describe(self._classes, expected)
        runner.logger.info(f'Pseudo-labels of the last steps: {text}')
        collapse = quality.collapse(self._classes, expected)
        values = quality.as_dict(self._classes, expected) | {'collapsed': bool(collapse)}
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{LOGGED}{name}', float(value))
        if collapse:
            again = ' (still)' if self._collapsed else ''
            runner.logger.warning(
                f'Step {step}: the pseudo-labels have collapsed{again}: {collapse}'
            )
        elif self._collapsed:
            runner.logger.info(f'Step {step}: the pseudo-labels have recovered')
        self._collapsed = collapse


def averaged_weights(model: nn.Module, hook: EMAHook) -> dict[str, Tensor]:
    """Returns the averages of the trained weights that a hook keeps, by name, without gradients.

    Before the first step they are the weights themselves. Frozen weights are left out: the backbone
    holds these in its own way.
    """
    weights = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    average = hook.ema_model
    if average.steps:
        weights.update(average.module.named_parameters())
        if average.update_buffers:
            weights.update(average.module.named_buffers())
    return weights


def label_photo(
    photo: DetDataSample,
    prediction: DetDataSample,
    sure: TeacherBoxes,
    unsure: Tensor,
    weight: float,
) -> None:
    """Gives a photo the boxes of a teacher as its labels, in place.

    Args:
        photo: The sample of the photo. It gets masks if its pipeline loads masks.
        prediction: What the teacher predicted.
        sure: The boxes to learn from, some of the predicted ones.
        unsure: Boxes that may be objects or not, (x1, y1, x2, y2), (n, 4).
        weight: Weight of the photo in the losses; without sure boxes it is 0.
    """
    labels = InstanceData(bboxes=HorizontalBoxes(sure.boxes), labels=sure.labels)
    if 'masks' in photo.gt_instances:
        labels.masks = _masks_of(prediction, sure.rows, photo.img_shape)
    photo.gt_instances = labels
    photo.set_field(unsure, UNSURE_BOXES)
    photo.set_metainfo({IMAGE_WEIGHT: weight if len(sure.labels) else 0.0})


def _masks_of(prediction: DetDataSample, rows: Tensor, shape: tuple[int, int]) -> BitmapMasks:
    """Returns the masks of a teacher; if it has none, masks without a pixel, which are ignored."""
    height, width = shape[:2]
    masks = np.zeros((len(rows), height, width), np.uint8)
    if 'masks' in prediction.pred_instances:
        found = run_lengths(prediction.pred_instances.masks)
        for mask, row in zip(masks, rows.tolist(), strict=True):
            mask[:] = decode_mask(found[row])
    return BitmapMasks(masks, height, width)
