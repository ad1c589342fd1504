"""Pictures to latents and back: encoder, bottleneck, decoder."""
