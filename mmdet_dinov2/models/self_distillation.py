"""Self-distillation: a backbone that learns from photos without labels, as DINOv2 was trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed.nn.functional as collectives
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..checkpoint import read_checkpoint, state_dict_of
from ..errors import InputError
from ..layers import (
    PrototypeHead,
    TokenLayout,
    centred_softmax,
    dino_loss,
    entropy,
    koleo_loss,
    mean_of_images,
    sinkhorn_knopp,
    soft_cross_entropy,
    valid_cells,
)
from ..sample_meta import NUM_GLOBAL_CROPS, PATCH_MASKS, sample_seeds, weight_in_step
from .vit import detector_layer_depth

CENTRINGS = ('softmax', 'sinkhorn')


class PrototypeNetwork(nn.Module):
    """A backbone whose tokens are compared with prototypes.

    Args:
        backbone: Config of the backbone.
        head: Arguments of :class:`~mmdet_dinov2.layers.PrototypeHead` for CLS tokens.
        ibot_head: Those for patches; None shares the head of the CLS tokens.
    """

    def __init__(
        self, backbone: Mapping[str, Any], head: Mapping[str, Any], ibot_head: Mapping | None
    ) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        dims = self.backbone.embed_dims
        self.dino_head = PrototypeHead(dims, **head)
        self.ibot_head = None if ibot_head is None else PrototypeHead(dims, **ibot_head)

    @property
    def patch_head(self) -> PrototypeHead:
        """The head that patches pass."""
        return self.dino_head if self.ibot_head is None else self.ibot_head

    def score(
        self, tokens: Tensor, layout: TokenLayout, chosen: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compares the CLS tokens of all images and chosen patches with the prototypes.

        Args:
            tokens: Tokens of the backbone, shape (T, C).
            layout: Their layout.
            chosen: Which patches of each of the first images; see ``TokenLayout.patch_index``.

        Returns:
            CLS tokens (images, C), their cosines (images, K), and those of the patches
            (patches, K').
        """
        starts = torch.tensor(layout.starts)
        cls = tokens.index_select(0, starts.to(tokens.device, non_blocking=True))
        index = layout.patch_index(chosen).to(tokens.device, non_blocking=True)
        return cls, self.dino_head(cls), self.patch_head(tokens.index_select(0, index))


@MODELS.register_module()
class SelfDistillation(BaseModel):
    """Trains a backbone to predict what its own moving average sees (DINOv2, arXiv:2304.07193).

    All crops of a batch are one packed stream. The student learns three things: the targets of the
    teacher for the CLS token of other crops of the image (DINO), for patches that were hidden from
    it (iBOT), and to spread the CLS tokens of different images (KoLeo). The teacher is the moving
    average of the student. :class:`.SelfDistillationHook` moves it after each step.

    With ``source``, a frozen network takes the place of the teacher: a larger backbone is distilled
    into a smaller one. Nothing is hidden then, whatever masks the samples have, and all patches of
    the global crops learn.

    A checkpoint loads into the backbone of a detector as it is (``init_cfg``), which takes the
    moving average.

    Softmax centring takes the mean scores of the steps before, so a step is the same on any number
    of processes and micro-batches. Sinkhorn-Knopp and KoLeo compare the images of a micro-batch, of
    all processes: with them, the number of micro-batches makes a difference.

    Args:
        backbone: Config of the backbone, with ``drop_path_rate`` for stochastic depth of the
            student.
        head: Arguments of :class:`~mmdet_dinov2.layers.PrototypeHead`.
        ibot_head: Those of a separate head for patches; None shares the head of the CLS tokens.
        centring: 'softmax' or 'sinkhorn'.
        center_momentum: Share of the center of scores that each step keeps, 0..1.
        student_temperature: Temperature of the student.
        teacher_temperature: Temperature of the teacher; the hook changes it during a training.
        dino_weight: Weight of the loss of CLS tokens.
        ibot_weight: Weight of the loss of patches.
        koleo_weight: Weight of KoLeo.
        source: The frozen network: ``checkpoint`` of a self-distillation, and its ``backbone``,
            ``head`` and ``ibot_head``. None takes the moving average.
        data_preprocessor: Config of a ``CropDataPreprocessor``.

    Attributes:
        measures: Of the last step: entropy of the targets of CLS tokens (``target_entropy``) and
            of patches (``patch_entropy``), and cross-entropy of the patches
            (``patch_cross_entropy``), each relative to uniform probabilities; and one minus the
            mean cosine of the CLS tokens of different global crops (``cls_spread``).

    Raises:
        InputError: If an argument is unknown or out of range, or the heads do not fit together.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        head: Mapping[str, Any] | None = None,
        ibot_head: Mapping[str, Any] | None = None,
        centring: str = 'softmax',
        center_momentum: float = 0.9,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        dino_weight: float = 1.0,
        ibot_weight: float = 1.0,
        koleo_weight: float = 0.1,
        source: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if centring not in CENTRINGS:
            raise InputError(f'centring must be one of {CENTRINGS}, but is {centring!r}')
        self.student = PrototypeNetwork(backbone, head or {}, ibot_head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.centring = centring
        self.center_momentum = center_momentum
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.weights = dict(dino=dino_weight, ibot=ibot_weight, koleo=koleo_weight)
        self.source: PrototypeNetwork | None = None
        self._source_checkpoint = ''
        if source is None:
            self.mask_token = nn.Parameter(torch.zeros(self.student.backbone.embed_dims))
        else:
            self._build_source(dict(source))
        self.register_buffer('dino_center', torch.zeros(self.student.dino_head.num_prototypes))
        self.register_buffer('ibot_center', torch.zeros(self.student.patch_head.num_prototypes))
        self.measures: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}

    @property
    def backbone(self) -> nn.Module:
        """The backbone that is trained."""
        return self.student.backbone

    @property
    def communicates_in_forward(self) -> bool:
        """Whether the forward pass waits for other processes."""
        return self.centring == 'sinkhorn' or self.weights['koleo'] > 0

    def _build_source(self, source: dict[str, Any]) -> None:
        unknown = sorted(set(source) - {'checkpoint', 'backbone', 'head', 'ibot_head'})
        if unknown or 'checkpoint' not in source or 'backbone' not in source:
            raise InputError(
                'source must have a checkpoint and a backbone, and may have head and ibot_head'
                + (f', but it has {unknown}' if unknown else '')
            )
        self._source_checkpoint = source['checkpoint']
        network = PrototypeNetwork(
            source['backbone'], source.get('head') or {}, source.get('ibot_head')
        )
        for name in ('dino_head', 'patch_head'):
            counts = [getattr(n, name).num_prototypes for n in (self.student, network)]
            if counts[0] != counts[1]:
                raise InputError(
                    f'{name} of the student has {counts[0]} prototypes, that of the source '
                    f'{counts[1]}; they must have the same number'
                )
        self.source = network.requires_grad_(False)

    # ------------------------------------------------------------------ weights

    def init_weights(self) -> None:
        """Initialises the student, and copies it to the teacher; loads the frozen source."""
        self.student.backbone.init_weights()
        for module in self.student.modules():
            if isinstance(module, PrototypeHead):
                module.reset_parameters()
        self.teacher.load_state_dict(self.student.state_dict())
        if self.source is not None:
            self._load_source()
        self._is_init = True  # private: mmengine's, which has no other way to say it

    def _load_source(self) -> None:
        path = self._source_checkpoint
        prefix = 'teacher.'
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in state_dict_of(read_checkpoint(path), path).items()
            if name.startswith(prefix)
        }
        expected = self.source.state_dict()
        wrong = [n for n in expected if n not in state or state[n].shape != expected[n].shape]
        wrong += [n for n in state if n not in expected]
        if wrong:
            raise InputError(
                f'{path} does not hold the backbone and the heads of source ({len(wrong)} tensors '
                f'are missing, unknown or of a different shape, such as {wrong[0]}): released '
                'weights have no heads; train them first, by a self-distillation of that backbone, '
                'and name its checkpoint and its sizes'
            )
        self.source.load_state_dict(state)
        MMLogger.get_current_instance().info(f'Source: {len(state)} tensors of {path}')

    def train(self, mode: bool = True) -> SelfDistillation:
        """Sets the mode of the student; the others stay in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        if self.source is not None:
            self.source.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Returns the depth of a parameter for layer-wise learning-rate decay.

        Args:
            param_name: Name of the parameter, starting with ``prefix``.
            prefix: Prefix of the parameters of this model.
        """
        if param_name == f'{prefix}mask_token':
            param_name = f'{prefix}student.backbone.cls_token'
        return detector_layer_depth(self.backbone, param_name, f'{prefix}student.')

    # ------------------------------------------------------------------ a step

    def forward(
        self,
        inputs: tuple[list[Tensor], list[Tensor]],
        data_samples: SampleList | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | Tensor:
        """Computes losses, or the CLS tokens of the teacher.

        Args:
            inputs: Groups of global and of local crops; see ``CropDataPreprocessor``.
            data_samples: The data samples of the images.
            mode: 'loss' or 'tensor'.

        Raises:
            InputError: If ``mode`` is another one: there is nothing to predict.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'tensor':
            tokens, layout = self.teacher.backbone.forward_packed([*inputs[0], *inputs[1]])
            return tokens[list(layout.starts)]
        raise InputError(
            'a self-distillation predicts nothing, so it cannot be tested; give its checkpoint to '
            'the backbone of a detector (model.backbone.init_cfg.checkpoint)'
        )

    def loss(
        self, inputs: tuple[list[Tensor], list[Tensor]], data_samples: SampleList
    ) -> dict[str, Tensor]:
        """Computes the losses of a micro-batch; see the class.

        Args:
            inputs: Groups of global and of local crops; see ``CropDataPreprocessor``.
            data_samples: The data samples of the images.

        Returns:
            ``loss_dino``, ``loss_ibot`` and ``loss_koleo``, with their weights.
        """
        chosen = self._chosen_patches(inputs[0], data_samples)
        with torch.no_grad():
            teacher = self.teacher if self.source is None else self.source
            tokens, layout = teacher.backbone.forward_packed(inputs[0])
            _, scores, patch_scores = teacher.score(tokens, layout, chosen)
            targets = self._targets(scores, self.dino_center)
            patch_targets = self._targets(patch_scores, self.ibot_center)

        crops = [*inputs[0], *inputs[1]]
        num_crops = sum(map(len, crops)) // len(data_samples)
        tokens, layout = self.student.backbone.forward_packed(
            crops,
            crop_seeds(sample_seeds(data_samples), num_crops),
            *(() if self.source is not None else self._hidden(chosen, inputs[1])),
        )
        cls, student_scores, patch_student_scores = self.student.score(tokens, layout, chosen)
        cls = cls[: len(chosen)]

        patch_losses = soft_cross_entropy(
            patch_targets, patch_student_scores, self.student_temperature
        )
        terms = dict(
            dino=dino_loss(targets, student_scores, NUM_GLOBAL_CROPS, self.student_temperature),
            ibot=mean_of_images(patch_losses, [int(mask.sum()) for mask in chosen]),
            koleo=self._koleo(cls),
        )
        self._add_to_step(
            numbers=scores.new_tensor([len(scores), len(patch_scores)], dtype=torch.float32),
            entropies=torch.stack(
                [entropy(targets).sum(), entropy(patch_targets).sum(), patch_losses.detach().sum()]
            ),
            directions=F.normalize(cls.detach().float(), dim=-1).sum(0),
            scores=scores.float().sum(0),
            patch_scores=patch_scores.float().sum(0),
        )
        weight = weight_in_step(data_samples)
        return {
            f'loss_{name}': weight * self.weights[name] * term
            for name, term in terms.items()
            if self.weights[name]
        }

    def _chosen_patches(self, crops: Sequence[Tensor], data_samples: SampleList) -> list[Tensor]:
        """Returns which patches of each global crop learn, bool, row-major, on the CPU."""
        patch_size = self.backbone.patch_size
        if self.source is not None and self.source.backbone.patch_size != patch_size:
            raise InputError(
                f'the backbone has patches of {patch_size} pixels, that of source has '
                f'{self.source.backbone.patch_size}; set the same patch_size'
            )
        grids = valid_cells([x.shape[-2:] for x in crops for _ in x], patch_size)
        if self.source is not None:
            return [torch.ones(rows * cols, dtype=torch.bool) for rows, cols in grids]
        if PATCH_MASKS not in data_samples[0].metainfo:
            raise InputError(
                'the samples have no masks of patches; set mask_prob of PackCrops above 0, or name '
                'a source to distil from'
            )
        masks = [
            torch.from_numpy(sample.metainfo[PATCH_MASKS][view])
            for view in range(NUM_GLOBAL_CROPS)
            for sample in data_samples
        ]
        for mask, grid in zip(masks, grids, strict=True):
            if tuple(mask.shape) != tuple(grid):
                raise InputError(
                    f'a mask has {" x ".join(map(str, mask.shape))} patches, its crop '
                    f'{" x ".join(map(str, grid))}; set patch_size of PackCrops to that of the '
                    f'backbone, {patch_size}'
                )
        return [mask.flatten() for mask in masks]

    def _hidden(self, chosen: Sequence[Tensor], local: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns which patches of all crops the student does not see, and what it sees instead."""
        cells = valid_cells([x.shape[-2:] for x in local for _ in x], self.backbone.patch_size)
        seen = torch.zeros(sum(rows * cols for rows, cols in cells), dtype=torch.bool)
        hidden = torch.cat((*chosen, seen))
        return hidden.to(self.mask_token.device, non_blocking=True), self.mask_token

    def _targets(self, scores: Tensor, center: Tensor) -> Tensor:
        if self.centring == 'softmax':
            return centred_softmax(scores, center, self.teacher_temperature)
        return sinkhorn_knopp(scores, self.teacher_temperature, _add_up)

    def _koleo(self, cls: Tensor) -> Tensor:
        """Spreads the first crops of all images, and the second ones."""
        with torch.autocast(cls.device.type, enabled=False):
            directions = F.normalize(cls.float(), dim=-1, eps=1e-8)
            return sum(
                koleo_loss(view, *_of_all_processes(view))
                for view in directions.chunk(NUM_GLOBAL_CROPS)
            )

    # ------------------------------------------------------------------ around a step

    def begin_step(self) -> None:
        """Forgets what was added up: the step begins, or is done again."""
        self._sums.clear()

    @torch.no_grad()
    def _add_to_step(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    @torch.no_grad()
    def finish_step(self, momentum: float) -> None:
        """Moves the teacher and the centers after the weights have changed.

        Every process has to call it.

        Args:
            momentum: Share of the teacher that stays, 0..1.
        """
        names = list(self._sums)
        total = torch.cat([self._sums[name] for name in names])
        all_reduce(total)
        sizes = [len(self._sums[name]) for name in names]
        sums = dict(zip(names, total.split(sizes), strict=True))
        self._sums.clear()
        num_crops, num_patches = sums['numbers'].tolist()
        self._measure(sums)
        share = 1 - self.center_momentum
        self.dino_center.lerp_(sums['scores'] / num_crops, share)
        if num_patches:
            self.ibot_center.lerp_(sums['patch_scores'] / num_patches, share)
        pairs = [
            (_own_part(old), _own_part(new))
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            if new.requires_grad
        ]
        if pairs:
            old, new = zip(*pairs, strict=True)
            torch._foreach_lerp_(list(old), list(new), 1 - momentum)

    def _measure(self, sums: Mapping[str, Tensor]) -> None:
        """Computes the measures of a step from its sums."""
        directions = sums['directions']
        numbers = torch.cat((sums['numbers'], sums['entropies'], (directions @ directions)[None]))
        crops, patches, target, patch_target, patch_cross, square = numbers.tolist()
        most = math.log(len(self.dino_center))
        # The mean cosine of pairs, without those of a crop with itself.
        cosine = (square - crops) / (crops * (crops - 1))
        self.measures.update(target_entropy=target / crops / most, cls_spread=1 - cosine)
        if patches:
            most = math.log(len(self.ibot_center))
            self.measures.update(
                patch_entropy=patch_target / patches / most,
                patch_cross_entropy=patch_cross / patches / most,
            )


def crop_seeds(seeds: Sequence[int], num_crops: int) -> list[int]:
    """Returns a seed for each crop: the first ones of all images, then the second ones, and so on.

    Args:
        seeds: Seed of each image.
        num_crops: Number of crops of an image.
    """
    drawn = [
        torch.randint(2**62, (num_crops,), generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in seeds
    ]
    return [seed for view in zip(*drawn, strict=True) for seed in view]


def _add_up(sums: Tensor) -> Tensor:
    all_reduce(sums)
    return sums


def _of_all_processes(own: Tensor) -> tuple[Tensor, int]:
    """Gathers the rows of all processes, with gradients; returns them and where the own begin."""
    if get_world_size() == 1:
        return own, 0
    return torch.cat(collectives.all_gather(own.contiguous())), get_rank() * len(own)


def _own_part(parameter: Tensor) -> Tensor:
    """Returns the part of a parameter that this process holds."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
