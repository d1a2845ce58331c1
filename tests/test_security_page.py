"""The tests that SECURITY.md names are there, and its commands do what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.golden.bundles.make_bundles import KEYS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
MAIN = """
#include <stdlib.h>
int main(int count, char **words) {
    static unsigned char file[1 << 20], signature[64];
    FILE *one = fopen(words[2], "rb"), *other = fopen(words[3], "rb");
    size_t size = fread(file, 1, sizeof file, one);
    return count != 4 || fread(signature, 1, 64, other) != 64
        || !verified(words[1], file, size, signature);
}
"""


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    assert len(named) > 20
    assert {name for name in named if f"\ndef {name}(" not in tests} == set()


def test_every_row_names_a_test() -> None:
    section = PAGE.split("## Defended")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert all(row.rstrip(" |").split("|")[-1].count("`test_") for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A signed bundle, its raw signature and the public key, as the page names them."""
    shutil.copy(KEYS.parent / "version_5.edl", tmp_path / "net.edl")
    shutil.copy(KEYS.parent / "version_5.edl.sig", tmp_path / "net.edl.sig")
    shutil.copy(KEYS / "for_tests_only.pub", tmp_path / "alice.pub")
    return tmp_path


def altered(bundle: Path) -> None:
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_line_of_openssl_verifies(folder: Path) -> None:
    [line] = [one.strip() for one in PAGE.splitlines() if one.startswith("    openssl ")]
    assert subprocess.run(line.split(), cwd=folder, capture_output=True).returncode == 0
    altered(folder / "net.edl")
    assert subprocess.run(line.split(), cwd=folder, capture_output=True).returncode != 0


def test_the_program_in_c_verifies(folder: Path) -> None:
    [code] = re.findall(r"```c\n(.*?)```", PAGE, re.DOTALL)
    (folder / "verify.c").write_text(code + MAIN)
    compiler = shutil.which("cc")
    words = [str(compiler), "-Wall", "-o", "verify", "verify.c", "-lcrypto"]
    if compiler is None or subprocess.run(words, cwd=folder, capture_output=True).returncode:
        pytest.skip("no C compiler, or no headers of libcrypto")
    call = ["./verify", "alice.pub", "net.edl", "net.edl.sig"]
    assert subprocess.run(call, cwd=folder).returncode == 0
    altered(folder / "net.edl")
    assert subprocess.run(call, cwd=folder).returncode == 1
