"""Gaps between the kernels of a profile."""

import pytest
import torch

from mmdet_dinov2.benchmark.gaps import Gap, Span, find_gaps, profile_kernels


def test_gaps_are_those_that_no_kernel_covers():
    spans = [Span('c', 9e6, 10e6), Span('a', 0, 4e6), Span('b', 1e6, 2e6), Span('d', 3e6, 5e6)]
    gaps, busy = find_gaps(spans)
    assert gaps == [Gap(4.0, 'd', 'c')]
    assert busy == pytest.approx(0.6)


def test_operators_of_a_cpu():
    x = torch.ones(3, 3)
    names = [span.name for span in profile_kernels(lambda: (x @ x).sum(), 'cpu')]
    assert names == ['aten::matmul', 'aten::sum']
