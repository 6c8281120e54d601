"""Saves checkpoints so that one always loads."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...files import write_text
from ...runs.checkpoints import LAST_CHECKPOINT


@HOOKS.register_module()
class IntactCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that removes a checkpoint only after the next one is written.

    mmengine's hook first removes the oldest and the previous best checkpoint, so a run that dies
    while it saves, or finds the disk full, has lost them.

    Args:
        *args: As for mmengine's ``CheckpointHook``.
        **kwargs: As for mmengine's ``CheckpointHook``.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Saves the checkpoint if it is the best one, then removes the previous best one.

        Args:
            runner: The runner.
            metrics: Results of the evaluation.
        """
        previous = self._best_paths()
        # mmengine's hook removes the paths that it knows before it saves.
        self._set_best_paths(dict.fromkeys(previous))
        super().after_val_epoch(runner, metrics)
        best = {metric: new or previous[metric] for metric, new in self._best_paths().items()}
        self._set_best_paths(best)
        self._remove({*previous.values()} - {*best.values(), None})

    # Private in mmengine 0.10.12. There is no public way: it removes the oldest checkpoint before
    # it saves, and writes `last_checkpoint` in place.
    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        obsolete = []
        # A new best score saves the checkpoint of the same step again.
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                obsolete.append(self._path_of(self.keep_ckpt_ids[0]))
            self.keep_ckpt_ids.append(step)  # a deque of max_keep_ckpts: the oldest leaves it
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = self._path_of(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_text(os.path.join(runner.work_dir, LAST_CHECKPOINT), self.last_ckpt)
        self._remove(obsolete)

    def _path_of(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _best_paths(self) -> dict[str, str | None]:
        """Returns the best checkpoints by metric; mmengine keeps a single one elsewhere."""
        if not self.save_best:
            return {}
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if not paths:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _remove(self, paths: Iterable[str]) -> None:
        if not is_main_process():
            return
        for path in paths:
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)
