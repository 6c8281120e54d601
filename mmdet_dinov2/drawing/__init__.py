"""Boxes on pictures, in one style everywhere. Importing this package registers the visualizer."""

from .visualizer import BoxVisualizer

__all__ = ['BoxVisualizer']
