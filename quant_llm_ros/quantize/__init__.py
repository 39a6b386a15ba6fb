"""Checkpoint to bundle: decoder, quantization, export. The only place with torch."""
