"""Can a memory learn, and does what it learns transfer? The parts of
`tests/tools/measure_learning.py`."""
