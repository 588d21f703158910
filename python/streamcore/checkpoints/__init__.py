"""Where checkpoints are kept. Each module has one store; import what you use."""
