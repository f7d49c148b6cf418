"""The map of the memory bank: its projection, its state, and what it says."""
