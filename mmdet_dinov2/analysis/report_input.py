"""Collects from a work folder whatever a report can show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.reading import TRUST_FLAG, trusts_checkpoints
from ..data.annotation_columns import AnnotationColumns
from ..data.annotation_file import read_annotations
from ..data.dataset_source import iter_dataset_configs, read_source
from ..data.local_dataset import with_local_datasets
from ..errors import InputError
from ..runs.checkpoints import find_best_or_last
from ..runs.run_log import RunLog, read_run
from ..runs.saved_config import find_config, read_saved_config
from .predictions import make_predictions, read_predictions
from .report import ReportInput, read_environment


def collect(
    work_dir: str | Path,
    predictions: str | Path | None = None,
    run_model: bool = True,
    checkpoint: str | Path | None = None,
    ann_file: str | None = None,
    image_folder: str | None = None,
) -> ReportInput:
    """Reads a run.

    A file that the caller names must be readable. Where one that is searched for is missing, the
    report says so.

    Args:
        work_dir: Work folder of the run.
        predictions: File of predictions; see ``read_predictions``.
        run_model: Whether to make predictions with a checkpoint if no file is given.
        checkpoint: That checkpoint; by default the best one of the run, else its last one.
        ann_file: Annotations; by default those of the validation split of the saved config.
        image_folder: Folder of the images; by default that of the validation split.

    Raises:
        FileNotFoundError: If the folder or a file that was named does not exist.
        InputError: If a file that was named cannot be used.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'work folder {work_dir} does not exist; check the path')
    problems: list[str] = []
    given = ReportInput(_read_run(work_dir, problems), problems=problems)
    given.environment = read_environment(given.run)
    given.config_path = find_config(work_dir)
    if given.config_path is not None:
        try:
            given.config = read_saved_config(given.config_path)
        except InputError as error:
            problems.append(f'{error}.')
    given.annotations, found_folder = _annotations(
        _data_config(given.config, given.config_path, problems), ann_file, problems
    )
    given.image_folder = image_folder or found_folder
    given.scored_on = ann_file or given.scored_on
    if given.annotations is None:
        return given
    if predictions is not None:
        given.predictions = read_predictions(predictions, given.annotations)
        given.predictions_from = str(predictions)
    elif run_model:
        _run_model(given, work_dir, checkpoint, ann_file, problems)
    return given


def _read_run(work_dir: Path, problems: list[str]) -> RunLog:
    try:
        return read_run(work_dir)
    except FileNotFoundError:
        problems.append('The folder does not contain the log of a training.')
    except InputError as error:
        problems.append(f'{error}.')
    return RunLog(work_dir.resolve().name)


def _data_config(
    config: Mapping[str, Any] | None, path: Path | None, problems: list[str]
) -> Mapping[str, Any] | None:
    """Returns what a config says about datasets; it may be somebody else's, and runs no code."""
    if config is None or trusts_checkpoints():
        return config
    try:
        return with_local_datasets(config, str(path), ('val',))
    except InputError as error:
        problems.append(f'{error}, so nothing is evaluated; {TRUST_FLAG} builds it.')
        return None


def _annotations(
    config: Mapping[str, Any] | None, ann_file: str | None, problems: list[str]
) -> tuple[AnnotationColumns | None, str | None]:
    sources = list(iter_dataset_configs(config or {}, 'val'))
    if ann_file is not None:
        folders = [read_source('val', *source).image_folder for source in sources]
        return _read_annotations(ann_file), folders[0] if len(folders) == 1 else None
    if len(sources) != 1:
        problems.append(
            'The config does not have exactly one validation dataset, so nothing is evaluated.'
        )
        return None, None
    try:
        source = read_source('val', *sources[0])
        return _read_annotations(source.ann_file), source.image_folder
    except (FileNotFoundError, InputError) as error:
        problems.append(f'The validation data cannot be read: {error}.')
        return None, None


def _read_annotations(path: str) -> AnnotationColumns:
    # Whether masks are shown depends on the predictions, which may come from any file.
    coco = read_annotations(path, segmentations=True)
    if not coco.annotated:
        raise InputError(f'{coco.path} does not have annotations to compare predictions with')
    return coco


def _run_model(
    given: ReportInput,
    work_dir: Path,
    checkpoint: str | Path | None,
    ann_file: str | None,
    problems: list[str],
) -> None:
    path = checkpoint or find_best_or_last(work_dir)
    if path is None:
        problems.append('The run has not saved a checkpoint yet.')
        return
    try:
        data = None if ann_file is None else (ann_file, given.image_folder)
        given.predictions = make_predictions(given.config or {}, path, data)
        given.predictions_from = f'made with {Path(path).name}'
    except (FileNotFoundError, InputError) as error:
        if checkpoint is not None or ann_file is not None:
            raise
        problems.append(f'{Path(path).name} cannot be run: {error}.')
