"""Tiny models with random weights, saved as this pack's own files, so that a host can be checked without good ones."""
