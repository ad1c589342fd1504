"""Vitrail without ComfyUI: the command line, and a runner for the host's workflows."""
