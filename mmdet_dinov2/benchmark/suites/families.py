"""Compares DINOv3 with DINOv2 of the same size and with as many tokens: what rotation costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ...config.files import find_config
from ...layers import TokenLayout, valid_cells
from ...models import DINOv2, DINOv3, PackedViT
from .. import cases
from ..backbones import random_images
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..operators import count_operators
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread, measure_in_turns, ratio
from .backbone_speed import TINY_ARCH

_LIMIT = '<= 1.05'
_PATCH_SIZE = 16
_REGISTERS = 4


def families(report: BenchmarkReport, settings: Settings) -> None:
    """Measures DINOv3 relative to DINOv2 with as many tokens: time, memory and operators."""
    _backbones(report, settings)
    _detectors(report, settings)


def _backbones(report: BenchmarkReport, settings: Settings) -> None:
    archs, side, repeats = ['small', 'base'], 448, settings.repeats or 6
    if settings.dry_run:
        archs, side = [TINY_ARCH], 64
    table = report.table(
        'Backbones with as many tokens, fp32',
        (
            'backbone', 'pass', 'DINOv2 s', 'DINOv3 s', 'ratio', 'limit', 'DINOv2 operators',
            'DINOv3 operators', 'rotary table s',
        ),
        [
            f'1 image of {side}x{side}, patch {_PATCH_SIZE}, {_REGISTERS} registers; seed '
            f'{settings.seed}; {repeats} rounds',
            'operators: what PyTorch calls in one pass, without views; rotary table: the cosines '
            'and sines of a batch, which all blocks share and which are part of DINOv3 s',
        ],
    )  # fmt: skip
    image = random_images(1, (side, side), settings.seed).to(settings.device)
    layout = TokenLayout(tuple(valid_cells([(side, side)], _PATCH_SIZE)), 1 + _REGISTERS)
    for arch in archs:
        torch.manual_seed(settings.seed)
        models: dict[str, PackedViT] = {}
        for family in (DINOv2, DINOv3):
            model = family(arch, patch_size=_PATCH_SIZE, num_registers=_REGISTERS)
            model.init_weights()
            models[family.__name__] = model.to(settings.device).eval()
        for name, make in (('forward', _forward), ('forward+backward', _train)):
            runs = {family: make(model, image) for family, model in models.items()}
            turns = measure_in_turns(
                {**runs, 'table': partial(models['DINOv3'].rotary_table, layout)},
                repeats,
                settings.device,
            )
            report.add(
                table,
                {
                    'backbone': arch if isinstance(arch, str) else 'tiny',
                    'pass': name,
                    **{f'{family} s': Spread.of(turns[family]) for family in runs},
                    'ratio': ratio(turns['DINOv3'], turns['DINOv2']),
                    'limit': _LIMIT,
                    **{f'{family} operators': count_operators(run) for family, run in runs.items()},
                    'rotary table s': Spread.of(turns['table']),
                },
            )


def _detectors(report: BenchmarkReport, settings: Settings) -> None:
    configs, size, repeats = ['s_12ep', 's_ft'], (480, 640), settings.repeats or 3
    options: dict = {}
    if settings.dry_run:
        configs, size = ['s_ft'], (64, 80)
        options = {
            'model.backbone.arch': dict(TINY_ARCH, num_layers=12, _delete_=True),
            'model.encoder.num_layers': 1,
            'model.decoder.num_layers': 1,
            'model.num_queries': 20,
        }
    table = report.table(
        'Training steps with as many tokens, fp32',
        (
            'config', 'DINOv2 s', 'DINOv3 s', 'time ratio', 'limit', 'DINOv2 MiB', 'DINOv3 MiB',
            'memory ratio', 'memory limit',
        ),
        [
            f'1 image of {size[0]}x{size[1]}, {_REGISTERS} registers; seed {settings.seed}; times '
            f'in turns in one process, {repeats} rounds; memory: that of a process of its own',
        ],
    )  # fmt: skip
    for name in configs:
        row: dict = {'config': f'dino_dinov*_{name}', 'limit': _LIMIT, 'memory limit': _LIMIT}
        specs = {
            family: DetectorSpec(
                find_config(f'dino_{family.lower()}_{name}'),
                {**options, 'model.backbone.num_registers': _REGISTERS},
                device=settings.device,
                seed=settings.seed,
            ).as_dict()
            for family in ('DINOv2', 'DINOv3')
        }
        work = dict(batches=[[size]], seed=settings.seed)
        try:
            times = settings.run_case(
                cases.training_times,
                settings.time_limit,
                specs=list(specs.values()),
                repeats=repeats,
                **work,
            )['seconds']
            row |= {f'{f} s': Spread.of(t) for f, t in zip(specs, times, strict=True)}
            row['time ratio'] = ratio(times[1], times[0])
            memory = {
                family: settings.run_case(
                    cases.training_memory, settings.time_limit, spec=spec, **work
                )['mib']
                for family, spec in specs.items()
            }
            row |= {f'{family} MiB': mib for family, mib in memory.items()}
            if all(memory.values()):
                row['memory ratio'] = memory['DINOv3'] / memory['DINOv2']
        except CaseError as error:
            row['DINOv2 s'] = f'{NOT_MEASURED}: {error}'
        report.add(table, row)


def _forward(model: PackedViT, image: torch.Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: model(image))


def _train(model: PackedViT, image: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        model(image)[-1].sum().backward()
        model.zero_grad(set_to_none=True)

    return run
