"""The systems that latentmem is compared with one file each, one signature."""

from __future__ import annotations
