"""Measures what a model costs and how it compares with its peers in the same run."""
