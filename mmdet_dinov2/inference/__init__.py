"""Detectors that predict: loading, images and videos as inputs, predictions as files."""

from .detector import Detector, load

__all__ = ['Detector', 'load']
