"""What tells processors apart, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.runtime.machine import Processor, _processor, this_processor

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C
stepping\t: 8
microcode\t: 0x2b
cpu MHz\t\t: {mhz}
flags\t\t: {flags}
bogomips\t: 5400.00

"""
ARM = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd {feature}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: {part}
CPU revision\t: 1

"""


def told(tmp_path: Path, text: str, cap: str = "") -> Processor:
    """What is read of a file that was not read before."""
    place = tmp_path / f"cpuinfo{len(list(tmp_path.iterdir()))}"
    place.write_text(text)
    return _processor(place, cap)


def xeon(mhz: str = "2700.000", flags: str = "fpu avx2 amx_int8", cores: int = 2) -> str:
    return X86.format(mhz=mhz, flags=flags) * cores


def test_a_processor_by_name_and_flags(tmp_path: Path) -> None:
    found = told(tmp_path, xeon())
    assert found.name == "Intel(R) Xeon(R) Platinum 8481C"
    assert found.flags == {"fpu", "avx2", "amx_int8"}
    assert len(found.fingerprint) == 64


def test_clocks_cores_and_order_do_not_count(tmp_path: Path) -> None:
    first = told(tmp_path, xeon()).fingerprint
    for text in (xeon(mhz="800.0"), xeon(cores=64), xeon(flags="amx_int8 fpu avx2")):
        assert told(tmp_path, text).fingerprint == first


def test_flags_kinds_and_caps_count(tmp_path: Path) -> None:
    texts = [
        xeon(),
        xeon(flags="fpu avx2"),
        xeon().replace("stepping\t: 8", "stepping\t: 7"),
        xeon().replace("model\t\t: 143", "model\t\t: 142"),
        "",
    ]
    prints = {told(tmp_path, text).fingerprint for text in texts}
    prints.add(told(tmp_path, xeon(), "AVX2").fingerprint)
    assert len(prints) == len(texts) + 1


def test_every_kind_of_core_counts(tmp_path: Path) -> None:
    little = ARM.format(number=0, part="0xd03", feature="crc32")
    big = ARM.format(number=1, part="0xd08", feature="crc32")
    both = told(tmp_path, little + big)
    assert both.name == "0xd03 and 0xd08"
    assert both.flags == {"fp", "asimd", "crc32"}
    alone = {told(tmp_path, one).fingerprint for one in (little, big)}
    assert both.fingerprint not in alone
    assert len(alone) == 2


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    found = _processor(tmp_path / "none", "")
    assert found.flags == frozenset()
    assert found.name
    assert len(found.fingerprint) == 64


def test_a_cap_that_is_set_later_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    first = this_processor()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert this_processor().fingerprint != first.fingerprint
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert this_processor() == first
