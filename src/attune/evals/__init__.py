"""Measuring a model: losses, scored tasks, paired comparisons; nothing here knows of training."""
