"""Instruction sets that OpenVINO's kernels may be kept to."""

from __future__ import annotations

# Where it is set, OpenVINO's kernels keep to this instruction set; nothing else here knows it.
ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
ISA_CAPS = {"avx2": "AVX2", "avx2_vnni": "AVX2_VNNI", "avx512_vnni": "AVX512_CORE_VNNI"}
