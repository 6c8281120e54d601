"""Training loops whose iterations are optimizer steps, whatever the gradient accumulation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.seeded import SeededDataset, StepBatchSampler, derive_seed, seed_everything
from ..errors import InputError
from ..sample_meta import announce_step, bad_images
from .bad_images import BadImages

MAX_BAD_SHARE = 0.001
# Where checkpoints keep the step of the last evaluation.
_EVALUATED = 'evaluated_iter'


class _OptimizerSteps:
    """Runs the micro-batches of an optimizer step in one iteration of a loop.

    The dataloader gives all images of a step. Schedules, hooks, intervals and logs therefore count
    optimizer steps, and losses are divided by the number of boxes of the whole step. All random
    numbers of a step derive from the seed of the run, the step and the sample or process, so that a
    run can go on at any step.
    """

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        *args,
        max_bad_share: float = MAX_BAD_SHARE,
        **kwargs,
    ) -> None:
        self.bad_images = BadImages(max_bad_share)
        super().__init__(runner, build_training_dataloader(runner, dataloader), *args, **kwargs)

    def _evaluate(self) -> None:
        """Evaluates, and notes it for the checkpoints to come."""
        self.runner.val_loop.run()
        self.runner.message_hub.update_info(_EVALUATED, self._iter)

    def _make_up_for_evaluation(self) -> None:
        """Evaluates what the run goes on from, if that was due and its checkpoint came before."""
        known = self.runner.message_hub.get_info(_EVALUATED, None)
        if self._iter and self._evaluation_is_due() and known != self._iter:
            self.runner.logger.info('Evaluating first: the checkpoint was saved before that')
            self._evaluate()

    def _train_step(self, data_batch: dict) -> dict[str, float]:
        runner = self.runner
        seed_everything(derive_seed(runner.seed, self._iter, get_rank()))
        micro_batches = _split(data_batch, runner.accumulative_counts)
        if runner.accumulative_counts > 1:
            announce_step([batch['data_samples'] for batch in micro_batches])
            # The last step of an epoch may have fewer micro-batches.
            runner.optim_wrapper.initialize_count_status(runner.model, 0, len(micro_batches))
        outputs = [
            runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            for batch in micro_batches
        ]
        bad = bad_images(data_batch['data_samples']) if 'data_samples' in data_batch else []
        counters = runner.step_counters
        counts = [runner.stop_requested, bool(bad), *(count() for count in counters.values())]
        log_vars, (stops, any_bad, *sums) = _reduce_log_vars(outputs, counts)
        runner.stop_agreed = stops > 0
        runner.step_sums = dict(zip(counters, sums, strict=True))
        runner.losses_here = outputs
        if any_bad:
            self.bad_images.add(runner, bad, len(self.dataloader.dataset))
        return log_vars


@LOOPS.register_module()
class EpochTrainLoop(_OptimizerSteps, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, counting optimizer steps.

    With ``optim_wrapper.accumulative_counts=k`` an iteration takes k micro-batches of
    ``train_dataloader.batch_size`` images. A run resumed within an epoch goes on with the next step
    of this epoch.

    Args:
        runner: The runner.
        dataloader: As for mmengine's loop.
        *args: As for mmengine's loop.
        max_bad_share: Share of the images that may be unreadable before the run stops.
        **kwargs: As for mmengine's loop.
    """

    def run(self) -> nn.Module:
        """Runs what is left of the training."""
        self.runner.call_hook('before_train')
        self._make_up_for_evaluation()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self._evaluation_is_due():
                self._evaluate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _evaluation_is_due(self) -> bool:
        if self.runner.val_loop is None or self._epoch < self.val_begin:
            return False
        if self._iter != self._epoch * len(self.dataloader):  # within an epoch
            return False
        self._decide_current_val_interval()
        return self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs

    def run_epoch(self) -> None:
        """Runs what is left of an epoch."""
        length = len(self.dataloader)
        first_step = self._epoch * length
        done = self._iter - first_step
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
class IterTrainLoop(_OptimizerSteps, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``, counting optimizer steps; see ``EpochTrainLoop``.

    A sampler that ends, such as ``DefaultSampler``, is shuffled anew for each pass over the data.
    """

    def run(self) -> nn.Module:
        """Runs what is left of the training."""
        self.runner.call_hook('before_train')
        self._make_up_for_evaluation()
        self.runner.call_hook('before_train_epoch')
        batches = self._batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            if self._evaluation_is_due():
                self._evaluate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _evaluation_is_due(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        self._decide_current_val_interval()
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters

    def run_iter(self, data_batch: dict) -> None:
        """Runs one optimizer step."""
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        outputs = self._train_step(data_batch)
        self.runner.call_hook(
            'after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _batches(self) -> Iterator[dict]:
        """Batches from the current iteration on, without end."""
        sampler = self.dataloader.batch_sampler.sampler
        if isinstance(sampler, InfiniteSampler):
            _start(self.dataloader, self.runner.seed, 0, self._iter)
            yield from self.dataloader
        length = len(self.dataloader)
        if not length:
            raise InputError('the training data has no batch: fewer images than one batch needs')
        while True:
            round_, done = divmod(self._iter, length)
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(round_)
            _start(self.dataloader, self.runner.seed, round_ * length, done)
            yield from self.dataloader


# What mmengine's loops are replaced by.
STEP_LOOPS = {'EpochBasedTrainLoop': 'EpochTrainLoop', 'IterBasedTrainLoop': 'IterTrainLoop'}


def _split(data_batch: dict, num_parts: int) -> list[dict]:
    """Divides the images of a step into micro-batches; fewer where there are not enough images."""
    if num_parts == 1:
        return [data_batch]
    if not isinstance(data_batch, dict) or not isinstance(data_batch.get('data_samples'), Sequence):
        raise InputError(
            'gradient accumulation needs batches with inputs and data_samples, as '
            'PackDetInputs and pseudo_collate make them; set accumulative_counts=1 otherwise'
        )
    num_images = len(data_batch['data_samples'])
    size = -(-num_images // num_parts)
    return [
        {key: values[start : start + size] for key, values in data_batch.items()}
        for start in range(0, num_images, size)
    ]


def build_training_dataloader(runner, dataloader: DataLoader | dict) -> DataLoader:
    """Builds the dataloader of a training, whose randomness derives from step and sample.

    Args:
        runner: The runner.
        dataloader: Config, or a dataloader, which is taken as it is.

    Returns:
        The dataloader; its batch sampler is a ``StepBatchSampler``.

    Raises:
        InputError: If there are fewer images than processes.
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
            'processes; start as many processes as there are images, or fewer'
        )
    cfg['dataset'] = SeededDataset(dataset)
    cfg['batch_sampler'] = dict(
        type='StepBatchSampler',
        seed=runner.seed,
        drop_last=cfg.pop('drop_last', False),
        batch_sampler=cfg.get('batch_sampler'),
    )
    return runner.build_dataloader(cfg, seed=runner.seed)


def _start(dataloader: DataLoader, seed: int, first_step: int, skip: int) -> None:
    """Says where the next pass over the data begins; the seed may be that of a checkpoint."""
    batch_sampler = dataloader.batch_sampler
    if isinstance(batch_sampler, StepBatchSampler):
        batch_sampler.seed = seed
        if hasattr(batch_sampler.sampler, 'seed'):
            batch_sampler.sampler.seed = seed
        batch_sampler.start(first_step, skip)
    elif skip:
        raise InputError(
            'a run can go on within an epoch only if the runner builds its training dataloader '
            'from a config'
        )


def _reduce_log_vars(
    outputs: list[dict[str, Tensor]], counts: Sequence[int]
) -> tuple[dict[str, float], list[int]]:
    """Means over micro-batches and processes, in one transfer to the host.

    Args:
        outputs: Losses of each micro-batch.
        counts: What this process counted in the step.

    Returns:
        The means, and the sums of the counts over the processes.
    """
    names = list(outputs[0])
    means = torch.stack(
        [torch.stack([output[name].detach() for name in names]).float() for output in outputs]
    ).mean(0)
    means = torch.cat((means, means.new_tensor([float(count) for count in counts])))
    all_reduce(means, 'mean')
    values = means.tolist()
    sums = [round(value * get_world_size()) for value in values[len(names) :]]
    return dict(zip(names, values[: len(names)], strict=True)), sums
