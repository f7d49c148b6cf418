"""The command line: `latentmem`, or `python -m latentmem`."""
