"""What is invoked with a batch. Each module has one kind of function; import what you use."""
