"""Streams to read from. Each module is one kind and implements `streamcore.protocols.Source`."""
