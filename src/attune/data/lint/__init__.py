"""Lints: what is wrong with rows before a model sees them; one small function for each rule."""
