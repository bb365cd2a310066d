"""One trainer for all models, its optimiser, schedule and checkpoints."""
