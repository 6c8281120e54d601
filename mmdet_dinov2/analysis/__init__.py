"""Tools for judging a run before, during and after it: curves, pictures, reports."""
