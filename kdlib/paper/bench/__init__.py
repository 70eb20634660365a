"""The speed-ups, each re-measured from both sides in one run: `kdlib bench NAME`."""

from kdlib.paper.bench.engine import bench_overhead, bench_predict, bench_train
from kdlib.paper.bench.measure import Bench, load
from kdlib.paper.bench.peers import bench_peers
from kdlib.paper.bench.scale import bench_scale
from kdlib.paper.bench.speedups import bench_distil, bench_fused, bench_pretrain

BENCHES = {"train": bench_train, "predict": bench_predict, "overhead": bench_overhead, "pretrain": bench_pretrain,
           "distil": bench_distil, "fused": bench_fused, "scale": bench_scale, "peers": bench_peers}

__all__ = ["BENCHES", "Bench", "load"]
