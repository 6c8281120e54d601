"""All measurements on a GPU, in one run.

Each case is a process of its own with a time limit. Cases that are not reached within the total
time are reported as not measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .. import cases, device_checks
from ..cost import INFERENCE, add_inference_row, describe_batches
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread
from ..workloads import Size, detr_sizes
from .project_configs import QUICKSTART, TINY_OPTIONS, config_path
from .training_step import COMPARISON, add_comparison_row

# Seconds of all cases together, and of one case.
TIME_LIMIT = 9.5 * 60
_CASE_LIMIT = 120.0
# DINO on a frozen DINOv2, batch 2, one 16 GB GPU (dgcnz/edge): seconds of an iteration, MiB.
PUBLISHED = {
    ('base', 'fp32'): (0.8822, 11656),
    ('base', 'bf16'): (0.6083, 9916),
    ('small', 'fp32'): (0.7500, 11363),
    ('small', 'bf16'): (0.5973, 10031),
}
_CONFIG_OF = {'base': 'dino_dinov2_b_12ep', 'small': 'dino_dinov2_s_12ep'}


@dataclass
class _Suite:
    """The cases of the suite; each is a method that fills a table.

    Attributes:
        report: Receives the tables.
        settings: How to measure.
        deadline: Time of ``time.monotonic`` after which no case begins.
    """

    report: BenchmarkReport
    settings: Settings
    deadline: float

    def __post_init__(self) -> None:
        run_case = self.settings.run_case

        def within_deadline(function, time_limit: float, **kwargs) -> dict:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise CaseError('no time was left')
            return run_case(function, min(time_limit, left), **kwargs)

        self.settings = dataclasses.replace(
            self.settings,
            run_case=within_deadline,
            time_limit=min(self.settings.time_limit, _CASE_LIMIT),
        )

    def spec(self, size: str, precision: str, **options: object) -> DetectorSpec:
        """Returns the detector of a published size; a tiny one in a dry run."""
        dry_run, device, seed = self.settings.dry_run, self.settings.device, self.settings.seed
        if dry_run:
            path, options = config_path(QUICKSTART), {**TINY_OPTIONS, **options}
        else:
            path = config_path(_CONFIG_OF[size])
        return DetectorSpec(path, options, precision=precision, device=device, seed=seed)

    def batches(self, batch_size: int, num_batches: int) -> list[list[Size]]:
        """Draws sizes of DETR's augmentation; a tenth of them in a dry run."""
        if self.settings.dry_run:
            batch_size, num_batches = 2, 1
        sizes = detr_sizes(batch_size * num_batches, self.settings.seed)
        if self.settings.dry_run:
            sizes = [(height // 10, width // 10) for height, width in sizes]
        return [sizes[i : i + batch_size] for i in range(0, len(sizes), batch_size)]

    def notes(self, batches: Sequence[Sequence[Size]]) -> list[str]:
        return describe_batches(batches, 16, self.settings.seed)

    def correctness(self) -> None:
        """Compares kernels of the device with the CPU."""
        seed, device = self.settings.seed, self.settings.device
        size = [84, 56] if self.settings.dry_run else [480, 640]
        mates = [[56, 84], [84, 70]] if self.settings.dry_run else [[480, 640], [800, 1066]]
        lengths = [37, 21, 21, 3] if self.settings.dry_run else [1201, 851, 851, 7]
        table = self.report.table(
            'Kernels of the device against fp32 on the CPU',
            ('what', 'dtype', 'forward differs', 'backward differs', 'expected'),
            ['largest difference relative to the largest value', f'seed {seed}'],
        )
        checks = [
            (f'attention over segments of {lengths}', dtype, expected,
             device_checks.segment_attention_error,
             dict(device=device, lengths=lengths, dtype=dtype, seed=seed))
            for dtype, expected in (('float32', '<= 1e-4'), ('bfloat16', '<= 2e-2'))
        ]  # fmt: skip
        checks += [
            ('encoder with deformable attention', precision, expected,
             device_checks.encoder_error,
             dict(spec=self.spec('small', precision).as_dict(), size=size))
            for precision, expected in (('fp32', '<= 1e-3'), ('bf16', '<= 2e-1'))
        ]  # fmt: skip
        checks.append(
            ('pyramid of images in a batch and alone', 'fp32', '<= 1e-4',
             device_checks.prediction_error,
             dict(spec=self.spec('small', 'fp32').as_dict(), sizes=mates, seed=seed))
        )  # fmt: skip
        for what, dtype, expected, function, arguments in checks:
            row = {'what': what, 'dtype': dtype, 'expected': expected}
            try:
                result = self.settings.run_case(function, self.settings.time_limit, **arguments)
                row |= {f'{key} differs': f'{value:.1e}' for key, value in result.items()}
            except CaseError as error:
                row['forward differs'] = f'{NOT_MEASURED}: {error}'
            self.report.add(table, row)

    def against_mmdet(self) -> None:
        """Compares the training step of B in bf16 with mmdet's."""
        batches = self.batches(2, 4)
        table = self.report.table(
            'Training step of B, frozen, bf16, batch 2, multi-scale', COMPARISON,
            self.notes(batches),
        )  # fmt: skip
        add_comparison_row(
            self.report, table, self.settings, self.spec('base', 'bf16'), batches, 5,
            '<= 0.5', '<= 0.5',
        )  # fmt: skip

    def ablation(self) -> None:
        """Measures time and memory of the rows of the published ablation."""
        batches = self.batches(2, 4)
        table = self.report.table(
            'Training step, frozen, batch 2, multi-scale, beside the published ablation',
            ('model', 'precision', 'step s', 'peak MiB', 'published s', 'published MiB',
             'memory ratio', 'limit'),
            [*self.notes(batches), 'published: dgcnz/edge, one 16 GB GPU; mixed precision there, '
             'bf16 here'],
        )  # fmt: skip
        for (size, precision), (seconds, mib) in PUBLISHED.items():
            row = {
                'model': f'ViT-{size[0].upper()}', 'precision': precision,
                'published s': f'{seconds:.4f}', 'published MiB': f'{mib}', 'limit': '<= 0.5',
            }  # fmt: skip
            row |= self._train(self.spec(size, precision), batches)
            if 'peak MiB' in row:
                row['memory ratio'] = row['peak MiB'] / mib
            self.report.add(table, row)

    def large_batch(self) -> None:
        """Measures the memory of the recipe's batch of 16 on one GPU."""
        batches = self.batches(16, 2)
        table = self.report.table(
            'Training step of B, frozen, 12-epoch settings, batch 16 on one GPU',
            ('precision', 'step s', 'peak MiB', 'limit'),
            self.notes(batches),
        )
        row = {'precision': 'bf16', 'limit': f'< {24 * 1024} MiB'}
        row |= self._train(self.spec('base', 'bf16'), batches, repeats=3)
        self.report.add(table, row)

    def utilisation(self) -> None:
        """Measures the operations per second of the forward pass, beside the peak of the card."""
        batches = self.batches(8, 1)
        table = self.report.table('Predictions of B, bf16, batch 8', INFERENCE, self.notes(batches))
        add_inference_row(self.report, table, self.settings, self.spec('base', 'bf16'), batches)

    def _train(self, spec: DetectorSpec, batches: list[list[Size]], repeats: int = 5) -> dict:
        """Returns the cells of a training step, or the reason why it was not measured."""
        try:
            cost = self.settings.run_case(
                cases.training_memory,
                self.settings.time_limit,
                spec=spec.as_dict(),
                batches=batches,
                seed=self.settings.seed,
                repeats=self.settings.repeats or repeats,
            )
        except CaseError as error:
            return {'step s': f'{NOT_MEASURED}: {error}'}
        return {'step s': Spread.of(cost['seconds']), 'peak MiB': cost['mib']}


def everything(report: BenchmarkReport, settings: Settings) -> None:
    """Runs all measurements on a GPU, in less than ten minutes."""
    suite = _Suite(report, settings, time.monotonic() + TIME_LIMIT)
    suite.correctness()
    suite.against_mmdet()
    suite.ablation()
    suite.large_batch()
    suite.utilisation()
