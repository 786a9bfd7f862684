"""Training: the only room that knows data, model and evaluation together."""
