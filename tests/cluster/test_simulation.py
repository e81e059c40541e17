"""The simulation of `benchmarks/cluster.py`, small."""

from __future__ import annotations

from benchmarks.cluster import simulate


def test_a_small_cluster_meets_the_targets() -> None:
    result = simulate(cameras=1000, hosts=20, number=5)
    assert result["storms"]["target met"]
    assert result["upgrade"]["target met"]
