"""Transforms that mix several samples of a dataset, seeded as all others are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmcv.transforms import BaseTransform, Compose
from mmdet.registry import TRANSFORMS

from ..errors import InputError

# Where a sample in the pipeline holds the samples that it may be mixed with.
OTHER_SAMPLES = 'other_samples'


class OtherSamples:
    """All samples of a dataset, without its pipeline.

    Copies of a sample share it: transforms copy samples, and a dataset is large.

    Args:
        dataset: A dataset of mmengine.
        transform: What each sample goes through; nothing if None.
    """

    def __init__(
        self, dataset: Any, transform: Callable[[dict], dict | None] | None = None
    ) -> None:
        self.dataset = dataset
        self._transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict | None:
        # mmdet's transforms also draw the number behind the last one.
        sample = self.dataset.get_data_info(index % len(self))
        sample[OTHER_SAMPLES] = OtherSamples(self.dataset)
        return self._transform(sample) if self._transform else sample

    def __copy__(self) -> OtherSamples:
        return self

    def __deepcopy__(self, memo: dict) -> OtherSamples:
        return self


@TRANSFORMS.register_module()
class MixSamples(BaseTransform):
    """Gives a transform that mixes samples the ones to mix with.

    It takes the place of mmdet's ``MultiImageMixDataset``, within the pipeline: the seed of a
    sample decides which samples are mixed, and ``PipelineSwitchHook`` can end it. mmdet's
    ``Mosaic`` and ``MixUp`` fit, and :class:`.BoxMixUp` and :class:`.BoxCutMix`. Their cached
    relatives (``CachedMosaic``) mix what their process has loaded before, so that images depend on
    the number of processes.

    The dataset has to be a :class:`.ClassNameCocoDataset`.

    Args:
        transform: Config of the transform.
        pre_transform: Transforms of the other samples, the same that this one went through, from
            loading on.
    """

    def __init__(self, transform: dict, pre_transform: Sequence[dict]) -> None:
        self.mix = TRANSFORMS.build(transform)
        if not hasattr(self.mix, 'get_indexes'):
            raise InputError(
                'MixSamples needs a transform that mixes samples, such as BoxMixUp, BoxCutMix, '
                f'Mosaic or MixUp, but got {type(self.mix).__name__}'
            )
        self.pre_transform = Compose(list(pre_transform))

    def transform(self, results: dict) -> dict | None:
        """Mixes a sample with others.

        Raises:
            InputError: If the dataset does not say what other samples there are.
        """
        others = results.get(OTHER_SAMPLES)
        if others is None:
            raise InputError(
                'MixSamples needs samples of a ClassNameCocoDataset that is not in test mode'
            )
        loaded = OtherSamples(others.dataset, self.pre_transform)
        chosen = self.mix.get_indexes(loaded)
        mixed = [loaded[i] for i in (chosen if isinstance(chosen, (list, tuple)) else [chosen])]
        if None in mixed:  # filtered out
            return results
        results['mix_results'] = mixed
        results = self.mix(results)
        results.pop('mix_results', None)
        return results
