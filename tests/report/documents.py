"""Documents of `bench` for the tests: made up, whole, and as long as is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

OPERATORS = (
    ("Conv", 0.62),
    ("Gemm", 0.11),
    ("MatMul", 0.08),
    ("Add", 0.06),
    ("QuantizeLinear", 0.05),
    ("Reorder", 0.04),
    ("Softmax", 0.03),
    ("Relu", 0.01),
)


def latency(p50: float, samples: int = 1200) -> dict[str, Any]:
    """Percentiles around a median, in ms."""
    return {
        "min": 0.93 * p50,
        "p50": p50,
        "p90": 1.08 * p50,
        "p99": 1.6 * p50 if samples >= 662 else None,
        "mean": 1.03 * p50,
        "samples": samples,
    }


def row(name: str, p50: float, *, precision: str = "int8", i: int = 0) -> dict[str, Any]:
    """One whole row."""
    return {
        "artifact": name,
        "engine": ("onnxruntime", "openvino")[i % 2],
        "precision": precision,
        "threads": 1,
        "valid": True,
        "digest": "5f" * 32,
        "latency_ms": latency(p50),
        "end_to_end_ms": latency(1.15 * p50, 400),
        "stages_ms": {
            "decode": 2.1 * p50,
            "preprocess": 0.4 * p50,
            "run": p50,
            "postprocess": None,
        },
        "throughput_per_s": 1000 / p50,
        "import_ms": 180.0 + 40 * i % 90,
        "load_ms": 40.0 + 3 * p50,
        "first_ms": 2.4 * p50,
        "peak_rss_bytes": 60_000_000 + int(2e6 * p50),
        "gpu_bytes": None,
        "bytes": int(6e6 + 4e6 * p50),
        "compressed_bytes": int(5e6 + 3e6 * p50),
        "energy_mj": 3.1 * p50,
        "energy": {
            "net_mj": 3.1 * p50,
            "gross_mj": 4.5 * p50,
            "idle_w": 5.2,
            "window_s": 10.0,
            "rails": {"package-0": 4.5 * p50, "package-0/core": 3.9 * p50},
            "power_mode": None,
            "windows_mj": [3.1 * p50],
            "least_mj": 3.1 * p50,
            "most_mj": 3.1 * p50,
        },
        "accuracy": {
            "metric": "top1",
            "value": 0.70 + 0.06 * (1 - float(np.exp(-p50 / 8))),
            "samples": 5000,
        },
        "agreement": {"top1": 0.99, "cosine": 0.9991, "sqnr_db": 31.4, "samples": 500},
        "profile": [
            {
                "kind": kind,
                "precision": precision if share > 0.05 else "float32",
                "count": 4,
                "share": share,
                "us": 1000 * p50 * share,
            }
            for kind, share in OPERATORS
        ],
        "rates": [
            {"batch": batch, "streams": streams, "per_s": 900 / p50 * batch**0.3 * streams**0.8}
            for batch in (1, 8)
            for streams in (1, 2)
        ],
        "load": [
            {
                "rate_per_s": share * 1000 / p50,
                "achieved_per_s": min(share, 0.97) * 1000 / p50,
                "p50_ms": p50 / (1.02 - share),
                "p90_ms": 1.4 * p50 / (1.02 - share),
                "p99_ms": 2 * p50 / (1.02 - share),
                "samples": 2000,
                "kept": share < 0.95,
            }
            for share in (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
        ],
    }


def pair(a: str, b: str, ratio: float) -> dict[str, Any]:
    """A pair whose interval is 4 % to either side."""
    low, high = 0.96 * ratio, 1.04 * ratio
    verdict = "faster" if low > 1.02 else "slower" if high < 0.98 else "inconclusive"
    p = 0.0001 if verdict != "inconclusive" else 0.41
    return {"a": a, "b": b, "ratio": ratio, "low": low, "high": high, "p": p, "verdict": verdict}


def document(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A document of these rows; every row is paired with the first."""
    first = rows[0]
    return {
        "format_version": 1,
        "time": "2026-11-21T07:00:00Z",
        "command": "edgedl bench resnet50.onnx resnet50.edl --samples images.npz --html out.html",
        "rows": rows,
        "pairs": [
            pair(
                first["artifact"],
                other["artifact"],
                first["latency_ms"]["p50"] / other["latency_ms"]["p50"],
            )
            for other in rows[1:]
        ],
        "noise_floor": 0.02,
        "machine": {
            "processor": "Intel(R) Core(TM) Ultra 5 125H",
            "architecture": "x86_64",
            "isa": ["avx2", "fma", "avx_vnni"],
            "cores": 14,
            "quota_cores": None,
            "memory_bytes": 33_000_000_000,
            "governor": "performance",
            "virtual": False,
            "libraries": {"numpy": "2.4.6", "onnxruntime": "1.23.0"},
            "gpus": [],
        },
        "doubts": ["the machine is busy: load 0.7 a core"],
        **more,
    }


def two() -> dict[str, Any]:
    """A float model and what became of it."""
    return document(
        [
            row("models/resnet50.onnx", 11.03, precision="float32"),
            row("models/resnet50.edl", 4.41, i=1),
        ]
    )


def many(count: int) -> dict[str, Any]:
    """So many candidates, of which the third is not valid."""
    names = ("float32", "float16", "int8", "int8")
    rows = [
        row(
            f"candidates/resnet50-{names[i % 4]}-{i:02d}.edl" if i else "models/resnet50.onnx",
            11.0 / (1 + 0.21 * (i * 7 % count) % 3.4),
            precision=names[i % 4],
            i=i,
        )
        for i in range(count)
    ]
    if count > 2:
        rows[2]["valid"] = False
    return document(rows)


def times(found: dict[str, Any], count: int = 1200) -> dict[str, np.ndarray]:
    """Raw latencies in ms around each row's median, with a long tail."""
    random = np.random.default_rng(0)
    samples = {}
    for entry in found["rows"]:
        p50 = entry["latency_ms"]["p50"]
        body = p50 * np.exp(random.normal(0, 0.03, count))
        late = random.random(count) < 0.03
        samples[entry["artifact"]] = np.where(late, p50 * (1 + random.pareto(2.5, count)), body)
    return samples


def earlier(found: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Older runs of the same rows, each a day before the next."""
    return [
        {
            "time": f"2026-10-{1 + i:02d}T06:00:00Z",
            "rows": [
                {
                    "artifact": entry["artifact"],
                    "latency_ms": {
                        "p50": entry["latency_ms"]["p50"]
                        * (1.2 + 0.05 * float(np.sin(i)) - 0.2 * i / count)
                    },
                }
                for entry in found["rows"]
            ],
            "machine": found["machine"],
        }
        for i in range(count)
    ]
