"""Training as generators: each step is yielded, so progress, sample grids and stopping are the caller's loop."""
