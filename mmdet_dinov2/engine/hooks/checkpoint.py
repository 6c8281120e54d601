"""Checkpoints of which one always loads."""

from __future__ import annotations

import os

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...files import write_text
from ...runs.checkpoints import LAST_CHECKPOINT


@HOOKS.register_module()
class IntactCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that removes a checkpoint only after its successor is written.

    mmengine's removes the oldest and the previous best checkpoint first, so that a run that dies
    while it saves, or finds the disk full, has lost them.

    Args:
        *args: As for mmengine's ``CheckpointHook``.
        **kwargs: As for mmengine's ``CheckpointHook``.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        obsolete = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            kept = [*self.keep_ckpt_ids, step]
            obsolete, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids.extend(kept[-1:])  # a deque of max_keep_ckpts
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_text(os.path.join(runner.work_dir, LAST_CHECKPOINT), self.last_ckpt)
        for old in obsolete:
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # Without a previous one, mmengine's has nothing to remove before it saves.
        if len(self.key_indicators) == 1:
            previous = {None: self.best_ckpt_path}
            self.best_ckpt_path = None
        else:
            previous = dict(self.best_ckpt_path_dict)
            self.best_ckpt_path_dict = dict.fromkeys(previous)
        super()._save_best_checkpoint(runner, metrics)
        for key, old in previous.items():
            new = self.best_ckpt_path if key is None else self.best_ckpt_path_dict.get(key)
            if new is None and key is None:
                self.best_ckpt_path = old
            elif new is None:
                self.best_ckpt_path_dict[key] = old
            elif old and old != new and is_main_process():
                self._remove(old)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
