"""Vitrail: VQGAN and latent diffusion as nodes for ComfyUI."""
