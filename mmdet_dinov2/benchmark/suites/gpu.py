"""All checks and measurements on a GPU, in one run, those that matter most first.

Each case is a process of its own with a time limit. Cases that are not reached within the total
time are reported as not measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...config.files import find_config
from .. import cases, device_checks, gpu_cases
from ..cost import INFERENCE, add_inference_row, describe_batches
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread
from ..workloads import Size, detr_sizes
from .project_configs import QUICKSTART, TINY_OPTIONS
from .training_step import COMPARISON, add_comparison_row

# Seconds of all cases together, and of one case.
TIME_LIMIT = 7.75 * 60
_CASE_LIMIT = 120.0
# AP that the quick start reaches on a CPU in fp32, less what seeds and precision change.
_QUICKSTART_AP = '>= 0.62'
# Settings with which it trains a moment, on a CPU.
_SHORT_TRAINING = {
    **TINY_OPTIONS,
    'model.neck.in_channels': TINY_OPTIONS['model.backbone.arch.embed_dims'],
    'sample_data.num_train': 8,
    'sample_data.num_val': 4,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler': [{'type': 'ConstantLR', 'factor': 1.0, 'by_epoch': True}],
}
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
            path, options = find_config(QUICKSTART), {**TINY_OPTIONS, **options}
        else:
            path = find_config(_CONFIG_OF[size])
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
            result, problem = self._result(function, **arguments)
            row |= {f'{key} differs': f'{value:.1e}' for key, value in result.items()}
            self.report.add(table, {**row, **({'forward differs': problem} if problem else {})})

    def tests(self) -> None:
        """Runs the tests of kernels and precision."""
        table = self.report.table('Tests that are marked gpu', ('tests', 'result', 'expected'))
        files = ['tests/test_layers/test_frozen.py'] if self.settings.dry_run else ['tests']
        result, problem = self._result(gpu_cases.device_tests, seconds=90.0, files=files)
        row = {'tests': 'kernels and precision', 'expected': 'none fails'}
        self.report.add(table, {**row, 'result': problem or result['summary']})

    def quickstart(self) -> None:
        """Trains the quick start in bf16 and in fp32."""
        table = self.report.table(
            'Quick start, trained', ('precision', 'bbox AP', 'limit', 's'), ['seed of the config']
        )
        options: dict = {'train_dataloader.num_workers': 4, 'val_dataloader.num_workers': 2}
        if self.settings.dry_run:
            options = _SHORT_TRAINING
        for precision in ('bf16', 'fp32'):
            result, problem = self._result(
                gpu_cases.trained_ap,
                config=find_config(QUICKSTART),
                options=options,
                amp=precision == 'bf16',
            )
            row = {'precision': precision, 'limit': _QUICKSTART_AP}
            row |= {'bbox AP': problem or result['ap'], 's': result.get('seconds')}
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

    def exhausted_memory(self) -> None:
        """Does a step again whose images do not fit into memory at once."""
        (sizes,) = self.batches(8, 1)
        table = self.report.table(
            'A step of B, bf16, with a limit of memory',
            ('case', 'losses differ', 'limit', 'parts'),
            [*self.notes([sizes]), 'largest difference of a loss to the step with all memory; the '
             'limit is 0.8 of what that one took; parts: micro-batches of the step'],
        )  # fmt: skip
        result, problem = self._result(
            gpu_cases.step_without_memory,
            spec=self.spec('base', 'bf16').as_dict(),
            sizes=sizes,
            seed=self.settings.seed,
        )
        row = {'case': f'batch {len(sizes)}', 'limit': '<= 1e-2', 'parts': result.get('parts')}
        differ = problem or f'{result["difference"]:.1e}'
        self.report.add(table, {**row, 'losses differ': differ})

    def deformable_attention(self) -> None:
        """Compares deformable attention with what the memory of the device allows."""
        grids = [(100, 167), (50, 84), (25, 42), (13, 21)]
        if self.settings.dry_run:
            grids = [(10, 16), (5, 8)]
        table = self.report.table(
            'Deformable attention of an encoder layer, beside the bound of the memory',
            ('dtype', 'pass', 'implementation', 'ms', 'bound ms', 'times the bound'),
            [f'2 images, levels of {grids}; fastest of 10; bound: inputs are read and results '
             f'written once, at the speed of a copy; seed {self.settings.seed}'],
        )  # fmt: skip
        for dtype in ('float32', 'bfloat16'):
            result, problem = self._result(
                gpu_cases.deformable_bandwidth,
                device=self.settings.device,
                grids=grids,
                dtype=dtype,
                seed=self.settings.seed,
            )
            if problem:
                self.report.add(table, {'dtype': dtype, 'ms': problem})
                continue
            for name in ('forward', 'backward'):
                seconds, bound = result[name], result[f'{name}_bound']
                row = {'dtype': dtype, 'pass': name, 'implementation': result['implementation']}
                row |= {'ms': 1e3 * seconds, 'bound ms': 1e3 * bound}
                self.report.add(table, {**row, 'times the bound': seconds / bound})

    def gaps(self) -> None:
        """Finds the longest times of a training step in which the device idles."""
        (sizes,) = self.batches(2, 1)
        table = self.report.table(
            'Longest gaps between the kernels of a training step of B, bf16, batch 2',
            ('gap ms', 'after', 'before'),
            self.notes([sizes]),
        )
        result, problem = self._result(
            gpu_cases.longest_gaps,
            spec=self.spec('base', 'bf16').as_dict(),
            sizes=sizes,
            seed=self.settings.seed,
        )
        if problem:
            self.report.add(table, {'gap ms': problem})
            return
        table.notes.append(f'{result["kernels"]} kernels; busy: {result["busy"]:.2f} of the time')
        for gap in result['gaps']:
            names = {'after': gap['before'][:60], 'before': gap['after'][:60]}
            self.report.add(table, {'gap ms': 1e3 * gap['seconds'], **names})

    def _result(self, case: Callable[..., dict], **arguments: object) -> tuple[dict, str | None]:
        """Runs a case; returns its result, or an empty one and why it was not measured."""
        try:
            return self.settings.run_case(case, self.settings.time_limit, **arguments), None
        except CaseError as error:
            return {}, f'{NOT_MEASURED}: {error}'

    def _train(self, spec: DetectorSpec, batches: list[list[Size]], repeats: int = 5) -> dict:
        """Returns the cells of a training step, or the reason why it was not measured."""
        cost, problem = self._result(
            cases.training_memory,
            spec=spec.as_dict(),
            batches=batches,
            seed=self.settings.seed,
            repeats=self.settings.repeats or repeats,
        )
        if problem:
            return {'step s': problem}
        return {'step s': Spread.of(cost['seconds']), 'peak MiB': cost['mib']}


def everything(report: BenchmarkReport, settings: Settings) -> None:
    """Runs all checks and measurements on a GPU, in less than eight minutes."""
    suite = _Suite(report, settings, time.monotonic() + TIME_LIMIT)
    suite.tests()
    suite.correctness()
    suite.quickstart()
    suite.against_mmdet()
    suite.ablation()
    suite.large_batch()
    suite.utilisation()
    suite.exhausted_memory()
    suite.deformable_attention()
    suite.gaps()
