"""The model's room: loading, attention, adapters, loss and generation; knows nothing of data files or training."""
