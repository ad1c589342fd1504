"""Prompts: words, styles, and the encoders that turn them into conditions."""
