"""Hooks that stop or disturb a run, for configs of tests, which import this module."""

import os
import signal
import subprocess
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


def note_time(runner):
    """Writes the time of the fault to the work folder, for tests of what follows."""
    Path(runner.work_dir, 'fault').write_text(str(time.time()))


@HOOKS.register_module(force=True)
class SignalAtStep(Hook):
    """Sends a signal to its own process while a step is running."""

    def __init__(self, step: int, name: str = 'SIGTERM', rank: int = 0) -> None:
        self.step = step
        self.signal = getattr(signal, name)
        self.rank = rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        first = os.environ.get('SLURM_RESTART_COUNT', '0') == '0'
        if first and runner.iter + 1 == self.step and int(os.environ.get('RANK', 0)) == self.rank:
            note_time(runner)
            self.stop()

    def stop(self):
        os.kill(os.getpid(), self.signal)


@HOOKS.register_module(force=True)
class SignalInEvaluation(Hook):
    """Sends a signal to its own process during an evaluation within a training."""

    def __init__(self, step: int, name: str = 'SIGTERM') -> None:
        self.step = step
        self.signal = getattr(signal, name)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step and batch_idx == 1:
            os.kill(os.getpid(), self.signal)


@HOOKS.register_module(force=True)
class RequeueAtStep(SignalAtStep):
    """Requeues the Slurm job that it runs in, as an administrator would."""

    def stop(self):
        subprocess.run(['scontrol', 'requeue', os.environ['SLURM_JOB_ID']], check=True)


@HOOKS.register_module(force=True)
class FailAtStep(Hook):
    """Raises an error in one process."""

    def __init__(self, step: int, rank: int) -> None:
        self.step = step
        self.rank = rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.step and int(os.environ.get('RANK', 0)) == self.rank:
            note_time(runner)
            raise RuntimeError('the third wheel came off')


@HOOKS.register_module(force=True)
class ForgetSeeds(Hook):
    """Makes every process draw its own noise, as other projects do."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for sample in data_batch['data_samples']:
            sample.set_metainfo(dict(sample_seed=int.from_bytes(os.urandom(6))))


@HOOKS.register_module(force=True)
class ConfidentStart(Hook):
    """Lets an untrained detector be sure of boxes, so that it can teach from the first step on."""

    def before_train(self, runner):
        if runner.iter == 0:
            model = getattr(runner.model, 'module', runner.model)
            for branch in model.bbox_head.cls_branches:
                torch.nn.init.normal_(branch.weight, std=0.5)
                torch.nn.init.zeros_(branch.bias)


@HOOKS.register_module(force=True)
class MeasureParameters(Hook):
    """Prints how many of all numbers of the parameters this process holds."""

    def before_train(self, runner):
        parameters = list(runner.model.parameters())
        local = sum(getattr(p, 'to_local', lambda p=p: p)().numel() for p in parameters)
        whole = sum(p.numel() for p in parameters)
        if int(os.environ.get('RANK', 0)) == 0:
            print(f'parameters here: {local}/{whole}')


@HOOKS.register_module(force=True)
class ExhaustMemory(Hook):
    """Lets memory be exhausted at places of training steps.

    Args:
        faults: Step, process, place and number of times. A place is the name of a module (its
            forward pass), 'backward' or 'optimizer'.
    """

    def __init__(self, faults: list) -> None:
        self.faults = faults
        self.raised = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for step, rank, place, times in self.faults:
            if runner.iter + 1 == step and int(os.environ.get('RANK', 0)) == rank:
                self.arm(runner, place, times)

    def arm(self, runner, place, times):
        left = [times]

        def fail(*args, **kwargs):
            if left[0]:
                left[0] -= 1
                self.raised += 1
                raise torch.OutOfMemoryError(f'planted in {place}')

        model = getattr(runner.model, 'module', runner.model)
        if place == 'optimizer':
            step = runner.optim_wrapper.optimizer.step
            runner.optim_wrapper.optimizer.step = lambda **kwargs: fail() or step(**kwargs)
        elif place == 'backward':
            next(p for p in model.parameters() if p.requires_grad).register_hook(fail)
        else:
            model.get_submodule(place).register_forward_pre_hook(fail)

    def after_train(self, runner):
        print(f'memory was exhausted {self.raised} times')
