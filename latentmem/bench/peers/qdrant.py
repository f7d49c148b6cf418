"""qdrant-client in local mode: exact search over numpy arrays in this process, as ours."""

from __future__ import annotations

import warnings

from ..workloads import EMBEDDING, HITS, Side, Work, p95, unit_keys
from . import package


def search(work: Work) -> Side:
    """The same keys and searches as ours, with the memory's name as payload."""
    client = package("qdrant_client", "qdrant-client")
    models = client.models
    warnings.simplefilter("ignore")  # that local mode is meant for small collections
    bank = client.QdrantClient(":memory:")
    bank.create_collection(
        "bank", vectors_config=models.VectorParams(size=EMBEDDING, distance=models.Distance.COSINE)
    )
    bank.upload_collection(
        "bank",
        vectors=unit_keys(work.memories, work.seed),
        ids=range(work.memories),
        payload=({"name": f"What is {i} plus {i % 97}?"} for i in range(work.memories)),
        batch_size=1000,
    )
    asked = unit_keys(work.queries, work.seed + 1)
    bank.query_points("bank", query=asked[0], limit=HITS)
    return Side(
        lambda: p95([lambda q=q: bank.query_points("bank", query=q, limit=HITS) for q in asked])
    )
