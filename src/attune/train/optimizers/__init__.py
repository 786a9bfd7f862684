"""Optimizers that step on the device: clipped and guarded without asking the host, in 16- and 8-bit states."""
