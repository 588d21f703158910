"""Where discards go. Each module has one destination; import what you use."""
