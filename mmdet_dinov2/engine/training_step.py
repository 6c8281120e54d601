"""A training step: gradients of all micro-batches, and what happens if memory is exhausted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoint import inner_model
from ..data.seeded import derive_seed, images_per_step, seed_everything
from ..errors import InputError
from ..layers.out_of_memory import is_out_of_memory, release_memory
from ..sample_meta import announce_step, boxes_of_step
from ..wording import first_names
from .gradient_exchange import GradientExchange
from .hooks.preemption import save_stopped_state
from .largest_batch import LargestImage, MemoryOfMachine, largest_fitting
from .micro_batches import MicroBatchPlan, Recomputation, can_be_divided, split_batch
from .optim.wrapper import MicroBatchSteps

# Times that single images with recomputed activations are tried in a step: other programs, which
# may share the memory, need it for a moment only.
_LAST_TRIES = 3
# How a process fared in computing its gradients; the largest of all processes counts.
_DONE, _AGAIN, _GIVEN_UP = range(3)


@dataclass(frozen=True)
class Failure:
    """A step that memory did not suffice for.

    Attributes:
        reason: First line of the error.
        batch: The micro-batch that memory did not suffice for.
        num_images: Number of images of the step in this process; None if it cannot be divided.
    """

    reason: str
    batch: dict
    num_images: int | None


class TrainingStep:
    """Computes the gradients of a step, again in smaller parts if memory is exhausted.

    A step that memory does not suffice for has changed nothing yet: its gradients are dropped, and
    it is done again with its images in twice as many micro-batches, down to single images, then
    with recomputed activations. All random numbers derive from the seed of the run, the step and
    the sample, and losses are divided by the boxes of the whole step, so the result is that of the
    step that would have been, up to rounding.

    On several processes, gradients are averaged once all processes have theirs. This needs a model
    whose forward pass does not communicate with other processes, which its attribute
    ``communicates_in_forward = False`` says. Gradients of other models and of sharded ones are
    averaged in the backward pass, and exhausted memory ends the run.

    Args:
        runner: The runner.
        redo: Whether a step is done again. If not, exhausted memory ends the run, and gradients are
            averaged during the backward pass, which overlaps both.
    """

    def __init__(self, runner: Runner, redo: bool = True) -> None:
        self._runner = runner
        self._plan = MicroBatchPlan(runner.accumulative_counts)
        model = inner_model(runner.model)
        self._divides = isinstance(runner.optim_wrapper, MicroBatchSteps)
        self._redo = redo and self._divides
        self._averages_in_backward = True
        self._averaging: GradientExchange | None = None
        if is_model_wrapper(runner.model):
            local = hasattr(runner.model, 'no_sync') and not _communicates_in_forward(model)
            self._redo = self._redo and local
            self._averages_in_backward = not self._redo
            if self._redo and get_world_size() > 1:
                self._averaging = GradientExchange(model)
        self._recomputation = Recomputation(model)
        # A model that adds something up over the micro-batches of a step.
        self._begin_in_model = getattr(model, 'begin_step', lambda: None)
        self._last_tries = _LAST_TRIES

    def __call__(self, data_batch: dict) -> Sequence[dict[str, Tensor]]:
        """Trains on the images of a step.

        Args:
            data_batch: All images of the step in this process.

        Returns:
            The losses of each micro-batch, by name.

        Raises:
            InputError: If memory does not suffice for a single image, after the state of the run
                is saved.
        """
        if not self._divides:  # such as several optimizers
            return self._compute_and_update(data_batch)
        boxes = None
        if self._averaging is not None and can_be_divided(data_batch):
            device = next(self._runner.model.parameters()).device
            most = images_per_step(self._runner.train_dataloader.batch_sampler)
            boxes = boxes_of_step(data_batch['data_samples'], most, device)
        result: list[dict[str, Tensor]] | Failure | None = None
        verdict, self._last_tries = _AGAIN, _LAST_TRIES
        while verdict == _AGAIN:
            verdict = _DONE
            if not isinstance(result, list):
                result = self._gradients(data_batch, boxes, self._num_parts(data_batch))
                if isinstance(result, Failure):
                    verdict = self._after_failure(result)
            if self._averaging is not None:
                verdict = self._averaging.agree(verdict)
            if verdict == _GIVEN_UP:
                self._give_up(result if isinstance(result, Failure) else None)
        if self._averaging is not None:
            self._averaging.average()
        self._runner.optim_wrapper.finish_step()
        if self._plan.count_step():
            self._recomputation.switch(self._plan.recomputes)
            self._log(
                f'Step {self._runner.iter + 1}: memory sufficed; trying larger parts again',
                logging.INFO,
            )
        return result

    def fit(self, image: LargestImage, num_images: int) -> None:
        """Chooses the largest micro-batch that fits into memory; changes no weights.

        Args:
            image: The image that needs the most memory.
            num_images: Number of images of a step in this process.

        Raises:
            InputError: If micro-batches cannot be chosen for this model, or memory does not suffice
                for a single image.
        """
        if not self._redo:
            raise InputError(
                '--batch-size auto needs a model whose gradients are averaged after the backward '
                'pass: one optimizer, and on several processes no FullyShardedModel, no batch norm '
                'over processes and no train_cfg.redo_out_of_memory=False; give a number'
            )
        runner = self._runner
        model = inner_model(runner.model)
        buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
        model.train()
        device = next(model.parameters()).device
        memory = MemoryOfMachine(device)
        # In place of the states of the optimizer, which its first step allocates.
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        states = torch.ones(2 * numbers, device=device)

        def compute(size: int) -> float | None:
            # Two micro-batches, as the second one finds the gradients of the first.
            batch = image.batch(size if size == num_images else min(2 * size, num_images))
            parts = -(-len(batch['inputs']) // size)
            return memory.peak_of(lambda: isinstance(self._gradients(batch, None, parts), list))

        base = 3 * states[:numbers].nbytes  # with the gradients
        size, peak = largest_fitting(num_images, compute, memory.usable, base)
        runner.optim_wrapper.zero_grad()
        del states
        release_memory()
        with torch.no_grad():
            for name, tensor in model.named_buffers():
                tensor.copy_(buffers[name])
        if not size:
            raise InputError(
                f'memory does not suffice for a single image of {image}: '
                f'{memory.usable / 2**20:.0f} MiB are left; reduce the scale of Resize or '
                'RandomChoiceResize, set with_cp=True in the model, or take a smaller model'
            )
        self._plan = MicroBatchPlan(-(-num_images // size))
        self._log(
            f'Micro-batches of {size} of the {num_images} images of a step: '
            f'{peak / 2**20:.0f} MiB for the largest images ({image}), '
            f'{(memory.usable - peak) / 2**20:.0f} MiB are left',
            logging.INFO,
        )

    def _gradients(
        self, data_batch: dict, boxes: Tensor | None, num_parts: int
    ) -> list[dict[str, Tensor]] | Failure:
        """Computes the gradients of a step; returns the losses of each micro-batch."""
        runner = self._runner
        micro_batches = self._micro_batches(data_batch, boxes, num_parts)
        runner.optim_wrapper.begin_step(len(micro_batches), self._averages_in_backward)
        self._begin_in_model()
        losses: list[dict[str, Tensor]] = []
        try:
            for batch in micro_batches:
                losses.append(runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper))
            return losses
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition('\n')[0]
        # The error, and all that its traceback refers to, is gone here.
        failed = micro_batches[len(losses)]
        losses.clear()
        runner.optim_wrapper.zero_grad()
        release_memory()
        return Failure(reason, failed, num_images(data_batch))

    def _micro_batches(self, data_batch: dict, boxes: Tensor | None, num_parts: int) -> list[dict]:
        """Seeds random numbers, divides the images, and tells them the boxes of the step."""
        runner = self._runner
        seed_everything(derive_seed(runner.seed, runner.iter, get_rank()))
        micro_batches = split_batch(data_batch, num_parts)
        # Where processes average later, the head must not wait for the others to count boxes.
        if len(micro_batches) > 1 or (self._averaging and can_be_divided(data_batch)):
            announce_step([batch['data_samples'] for batch in micro_batches], boxes)
        return micro_batches

    def _compute_and_update(self, data_batch: dict) -> list[dict[str, Tensor]]:
        """Trains with an optimizer wrapper that changes the parameters in the backward pass."""
        runner = self._runner
        micro_batches = self._micro_batches(data_batch, None, self._num_parts(data_batch))
        if len(micro_batches) > 1:
            # The last step of an epoch may have fewer micro-batches.
            runner.optim_wrapper.initialize_count_status(runner.model, 0, len(micro_batches))
        return [
            runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            for batch in micro_batches
        ]

    def _num_parts(self, data_batch: dict) -> int:
        count = num_images(data_batch)
        return self._runner.accumulative_counts if count is None else self._plan.num_parts(count)

    def _after_failure(self, failure: Failure) -> int:
        """Divides the step more finely; returns whether to do it again or to give up."""
        step = self._runner.iter + 1
        if not self._redo:
            raise InputError(
                f'memory was exhausted in step {step} ({failure.reason}); set a smaller '
                'train_dataloader.batch_size and a larger optim_wrapper.accumulative_counts, then '
                'continue from the last checkpoint with --resume'
            )
        count = failure.num_images
        if count is None:
            return _GIVEN_UP
        if not self._plan.divide(count, bool(self._recomputation)):
            self._last_tries -= 1
            if not self._last_tries:
                return _GIVEN_UP
        self._recomputation.switch(self._plan.recomputes)
        parts = self._plan.num_parts(count)
        size = -(-count // parts)
        how = [f'{size} {"image" if size == 1 else "images"} at once']
        settings = [
            f'train_dataloader.batch_size={size}',
            f'optim_wrapper.accumulative_counts={parts}',
        ]
        if self._plan.recomputes:
            how.append('with recomputed activations')
            settings.append('and with_cp=True in the model')
        if any(isinstance(m, _BatchNorm) and m.training for m in self._runner.model.modules()):
            how.append('which changes the step, as batch norm sees fewer images at once')
        self._log(
            f'Step {step}: memory was exhausted ({failure.reason}); the step is done again with '
            f'{", ".join(how)} (for good: --cfg-options {" ".join(settings)})'
        )
        return _AGAIN

    def _give_up(self, failure: Failure | None) -> None:
        """Saves the state before the step, and ends the run."""
        runner = self._runner
        runner.optim_wrapper.zero_grad()
        path = save_stopped_state(runner, runner.iter)
        step = runner.iter + 1
        found = f'{describe_sizes(failure.batch)} ({failure.reason})' if failure else ''
        images = '; '.join(filter(None, all_gather_object(found)))
        raise InputError(
            f'memory does not suffice for step {step}, even with one image at once and recomputed '
            f'activations: {images}; the state after step {runner.iter} is saved in {path}; reduce '
            'the scale of Resize or RandomChoiceResize in train_dataloader.dataset.pipeline, or '
            'take a smaller model or more memory, then continue with --resume'
        )

    def _log(self, text: str, level: int = logging.WARNING) -> None:
        # Only the main process prints to the console, but each may run out of memory.
        where = f' (process {get_rank()})' if get_world_size() > 1 else ''
        self._runner.logger.log(level, text + where)


def _communicates_in_forward(model: nn.Module) -> bool:
    """Returns whether the forward pass of a model may wait for other processes."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    return (
        getattr(model, 'communicates_in_forward', True)
        or bool(getattr(preprocessor, 'batch_augments', None))  # such as BatchSyncRandomResize
        or any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    )


def num_images(data_batch: dict) -> int | None:
    """Returns the number of images of a batch; None if it cannot be divided."""
    return len(data_batch['data_samples']) if can_be_divided(data_batch) else None


def describe_sizes(data_batch: dict) -> str:
    """Lists the images of a batch with their sizes and numbers of boxes."""
    if not can_be_divided(data_batch):
        return 'unknown images'
    described = []
    for sample in data_batch['data_samples']:
        height, width = sample.metainfo.get('img_shape', (0, 0))[:2]
        name = sample.metainfo.get('img_path') or f'id {sample.metainfo.get("img_id")}'
        described.append(f'{name} ({width} x {height} pixels, {len(sample.gt_instances)} boxes)')
    return first_names(described)
