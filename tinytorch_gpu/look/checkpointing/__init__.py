"""`look.checkpointing(model, batch)`: memory saved and time added by checkpoints around a model's blocks, measured."""
