"""Training loops whose iterations are optimizer steps, with any gradient accumulation."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..data.seeded import SeededDataset, StepBatchSampler, UnlabeledStream, images_per_step
from ..errors import InputError
from ..sample_meta import bad_images, bad_photos
from .bad_images import BadImages
from .largest_batch import find_largest_image
from .log.summary import describe_training
from .step import StepState
from .training_step import TrainingStep

MAX_BAD_SHARE = 0.001
# Key of the message hub, which checkpoints hold: the step of the last evaluation.
_EVALUATED = 'evaluated_iter'


class OptimizerStepLoop:
    """Runs the micro-batches of an optimizer step in one iteration of a loop.

    The dataloader gives all images of a step. So schedules, hooks, intervals and logs count
    optimizer steps, and losses are divided by the number of boxes of the whole step. All random
    numbers of a step derive from the seed of the run, the step, and the sample or process, so that
    a run can resume at any step.

    Attributes:
        step: What the last step and the hooks exchange.
        bad_images: The training images that could not be read.
    """

    # `_iter`, `_epoch` and `_decide_current_val_interval` are private in mmengine. Its loops count
    # in the first two, its runner sets them to resume, and there is no public way to do either.

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        *args,
        max_bad_share: float = MAX_BAD_SHARE,
        redo_out_of_memory: bool = True,
        fit_micro_batches: bool = False,
        **kwargs,
    ) -> None:
        self.step = StepState()
        self._redo = redo_out_of_memory
        self._fit = fit_micro_batches
        self.bad_images = BadImages(max_bad_share)
        super().__init__(runner, build_training_dataloader(runner, dataloader), *args, **kwargs)

    def _evaluate(self) -> None:
        """Evaluates, and notes the step for later checkpoints."""
        self.runner.val_loop.run()
        self.runner.message_hub.update_info(_EVALUATED, self.iter)

    def _begin(self) -> None:
        """Says what is trained, and starts the hooks."""
        self._check_length()
        self._training_step = TrainingStep(self.runner, self._redo)
        if self._fit:
            image = find_largest_image(self.dataloader.dataset)
            self._training_step.fit(image, images_per_step(self.dataloader.batch_sampler))
        self.runner.logger.info(describe_training(self.runner))
        self.runner.call_hook('before_train')
        self._make_up_for_evaluation()

    def _check_length(self) -> None:
        """Checks that there is a step.

        Raises:
            InputError: If all images together are fewer than one step takes.
        """
        if not len(self.dataloader):
            raise InputError(
                'the training data has fewer images than one step takes; set a smaller '
                'train_dataloader.batch_size or optim_wrapper.accumulative_counts, or '
                'train_dataloader.drop_last=False'
            )

    def _make_up_for_evaluation(self) -> None:
        """Evaluates first if the checkpoint was saved before an evaluation that was due."""
        known = self.runner.message_hub.get_info(_EVALUATED, None)
        if self.iter and self._evaluation_is_due() and known != self.iter:
            self.runner.logger.info('Evaluating first: the checkpoint was saved before that')
            self._evaluate()

    def _train_step(self, data_batch: dict) -> dict[str, float]:
        """Trains on all micro-batches of a step; returns the means of the losses."""
        runner = self.runner
        losses = self._training_step(data_batch)
        samples = data_batch.get('data_samples', ())
        bad, photos = bad_images(samples), bad_photos(samples)
        log_vars = self.step.share(losses, len(bad) + len(photos))
        if self.step.num_bad_images:
            self.bad_images.add(runner, bad, len(self.dataloader.dataset), photos)
        return log_vars


@LOOPS.register_module()
class EpochTrainLoop(OptimizerStepLoop, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, counting optimizer steps.

    With ``optim_wrapper.accumulative_counts=k``, an iteration takes k micro-batches of
    ``train_dataloader.batch_size`` images. A run resumed within an epoch continues with the next
    step of this epoch.

    Args:
        runner: The runner.
        dataloader: As for mmengine's loop.
        *args: As for mmengine's loop.
        max_bad_share: Share of the images that may be unreadable, 0..1; more stop the run.
        redo_out_of_memory: Whether a step that memory does not suffice for is done again in smaller
            parts; see ``TrainingStep``.
        fit_micro_batches: Whether the largest micro-batch that fits into memory is looked for
            first, in place of that of the config. It does not change what is trained.
        **kwargs: As for mmengine's loop.
    """

    def run(self) -> nn.Module:
        """Runs the remaining epochs and returns the model."""
        self._begin()
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            if self._evaluation_is_due():
                self._evaluate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _check_length(self) -> None:
        super()._check_length()
        if isinstance(self.dataloader.batch_sampler.sampler, InfiniteSampler):
            raise InputError(
                'an epoch with InfiniteSampler would not end; set train_dataloader.sampler.type='
                'DefaultSampler, or train_cfg=dict(type="IterTrainLoop", max_iters=N)'
            )

    def _evaluation_is_due(self) -> bool:
        if self.runner.val_loop is None or self.epoch < self.val_begin:
            return False
        if self.iter != self.epoch * len(self.dataloader):  # within an epoch
            return False
        self._decide_current_val_interval()
        return self.epoch % self.val_interval == 0 or self.epoch == self.max_epochs

    def run_epoch(self) -> None:
        """Runs the remaining steps of an epoch."""
        length = len(self.dataloader)
        first_step = self.epoch * length
        done = self.iter - first_step
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        _start(self.dataloader, self.runner.seed, first_step, done)
        if done < length:  # not stopped after the last step, before the end of the epoch
            for idx, data_batch in enumerate(self.dataloader, start=done):
                self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Runs one optimizer step."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self._train_step(data_batch)
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1


@LOOPS.register_module()
class IterTrainLoop(OptimizerStepLoop, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``, counting optimizer steps; see ``EpochTrainLoop``.

    A sampler that ends, such as ``DefaultSampler``, is shuffled again for each pass over the data.
    """

    def run(self) -> nn.Module:
        """Runs the remaining steps and returns the model."""
        self._begin()
        self.runner.call_hook('before_train_epoch')
        batches = self._batches()
        while self.iter < self.max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            if self._evaluation_is_due():
                self._evaluate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _evaluation_is_due(self) -> bool:
        if self.runner.val_loop is None or self.iter < self.val_begin:
            return False
        self._decide_current_val_interval()
        return self.iter % self.val_interval == 0 or self.iter == self.max_iters

    def run_iter(self, data_batch: dict) -> None:
        """Runs one optimizer step."""
        self.runner.call_hook('before_train_iter', batch_idx=self.iter, data_batch=data_batch)
        outputs = self._train_step(data_batch)
        self.runner.call_hook(
            'after_train_iter', batch_idx=self.iter, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _batches(self) -> Iterator[dict]:
        """Yields batches from the current step on, without end."""
        sampler = self.dataloader.batch_sampler.sampler
        if isinstance(sampler, InfiniteSampler):
            _start(self.dataloader, self.runner.seed, 0, self.iter)
            yield from self.dataloader
        length = len(self.dataloader)
        while True:
            round_, done = divmod(self.iter, length)
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(round_)
            _start(self.dataloader, self.runner.seed, round_ * length, done)
            yield from self.dataloader


def build_training_dataloader(runner, dataloader: DataLoader | dict) -> DataLoader:
    """Builds the dataloader of a training, whose random numbers derive from step and sample.

    Args:
        runner: The runner.
        dataloader: A config, or a dataloader, which is returned as it is.

    Returns:
        The dataloader; its batch sampler is a ``StepBatchSampler``. With ``unlabeled`` in the
        config, it adds photos of ``unlabeled.dataset`` to each step, ``unlabeled.ratio`` for each
        labeled image (1 by default).

    Raises:
        InputError: If there are fewer images than processes, or ``unlabeled`` cannot be used.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    cfg = copy.deepcopy(dataloader)
    dataset = DATASETS.build(cfg['dataset'])
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if len(dataset) < get_world_size():
        raise InputError(
            f'the training data has {len(dataset)} images, but there are {get_world_size()} '
            'processes; start at most as many processes as there are images'
        )
    unlabeled = cfg.pop('unlabeled', None)
    photos = unlabeled and _build_photos(unlabeled)
    cfg['dataset'] = SeededDataset(dataset, photos)
    cfg['batch_sampler'] = dict(
        type='StepBatchSampler',
        seed=runner.seed,
        drop_last=cfg.pop('drop_last', False),
        batch_sampler=cfg.get('batch_sampler'),
    )
    loader = runner.build_dataloader(cfg, seed=runner.seed)
    if photos:
        wanted = unlabeled.get('ratio', 1) * cfg['batch_size']
        if not (wanted == int(wanted) and wanted >= 1):
            raise InputError(
                f'train_dataloader.unlabeled.ratio={unlabeled["ratio"]} is {wanted:g} photos for '
                f'the {cfg["batch_size"]} labeled images of a step in each process; it must be a '
                'whole number of at least 1'
            )
        loader.batch_sampler.unlabeled = UnlabeledStream(
            len(photos), len(dataset), int(wanted), get_rank(), get_world_size()
        )
    return loader


def _build_photos(unlabeled: dict) -> Dataset:
    unknown = unlabeled.keys() - {'dataset', 'ratio'}
    if unknown or 'dataset' not in unlabeled:
        raise InputError(
            'train_dataloader.unlabeled has dataset and ratio, but got '
            f'{", ".join(sorted(unlabeled))}'
        )
    photos = DATASETS.build(unlabeled['dataset'])
    photos.full_init()
    return photos


def _start(dataloader: DataLoader, seed: int, first_step: int, skip: int) -> None:
    """Sets where the next pass over the data begins, and the seed, which a checkpoint may give."""
    batch_sampler = dataloader.batch_sampler
    if isinstance(batch_sampler, StepBatchSampler):
        batch_sampler.seed = seed
        if hasattr(batch_sampler.sampler, 'seed'):
            batch_sampler.sampler.seed = seed
        batch_sampler.start(first_step, skip)
    elif skip:
        raise InputError(
            'a run can resume within an epoch only if train_dataloader is a config, from which '
            'the runner builds the dataloader'
        )
