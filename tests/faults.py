"""Hooks that cause faults, for configs of tests."""

import os
import resource

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


def in_process(rank):
    return rank is None or int(os.environ.get('RANK', 0)) == rank


@HOOKS.register_module(force=True)
class SpoilImages(Hook):
    """Makes the images of some steps infinite, in one process or, with None, in all."""

    priority = 'VERY_HIGH'

    def __init__(self, steps, rank=None) -> None:
        self.steps = range(*steps) if isinstance(steps, tuple) else steps
        self.rank = rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 in self.steps and in_process(self.rank):
            data_batch['inputs'] = [image.float() * torch.inf for image in data_batch['inputs']]


@HOOKS.register_module(force=True)
class SpoilGradients(Hook):
    """Makes the gradient of some steps NaN while the loss is finite."""

    def __init__(self, steps) -> None:
        self.steps = steps

    def before_train(self, runner):
        self.runner = runner
        model = getattr(runner.model, 'module', runner.model)
        model.level_embed.register_hook(self.spoil)

    def spoil(self, gradient):
        return gradient * torch.nan if self.runner.iter + 1 in self.steps else gradient


@HOOKS.register_module(force=True)
class CountCosts(Hook):
    """Pretends that matching costs of a step were not finite."""

    def __init__(self, step, count) -> None:
        self.step, self.count = step, count

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.step:
            model = getattr(runner.model, 'module', runner.model)
            model.bbox_head.assigner.num_nonfinite += self.count


@HOOKS.register_module(force=True)
class LimitFileSize(Hook):
    """Limits the size of files from a step on, as a quota or a full disk does."""

    def __init__(self, step, size=50_000) -> None:
        self.step, self.size = step, size

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.step:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))
