"""`.npz` files: mapped where they lie, refused where they are damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.core.samples import Samples, open_npz

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "x": RANDOM.standard_normal((5, 3, 4)).astype(np.float32),
    "y": RANDOM.integers(0, 9, (5, 2)),
    "labels": np.arange(5),
}


def is_mapped(array: object) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@pytest.fixture(params=["stored", "compressed"])
def npz(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    (np.savez if request.param == "stored" else np.savez_compressed)(path, **ARRAYS)
    return path


def test_arrays_come_back_and_stay_on_disk(npz: Path) -> None:
    found = open_npz(npz)
    for name in ("x", "y"):
        np.testing.assert_array_equal(found.source.arrays[name], ARRAYS[name])
        assert found.source.arrays[name].dtype == ARRAYS[name].dtype
        assert is_mapped(found.source.arrays[name])
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, ARRAYS["labels"])
    assert (len(found), found.where) == (5, str(npz))


def test_a_compressed_file_leaves_nothing_behind(npz: Path) -> None:
    open_npz(npz)
    assert list(npz.parent.iterdir()) == [npz]


def test_fortran_order_and_empty_axes(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    fortran = np.asfortranarray(ARRAYS["x"])
    np.savez(path, x=fortran, empty=np.zeros((5, 0), np.float32))
    found = open_npz(path)
    np.testing.assert_array_equal(found.source.arrays["x"], fortran)
    assert found.source.arrays["empty"].shape == (5, 0)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "samples.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array(member, ARRAYS["x"], version)
    np.testing.assert_array_equal(open_npz(path).source.arrays["x"], ARRAYS["x"])


def refused(path: Path) -> BadSamples:
    with pytest.raises(BadSamples) as caught:
        open_npz(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    return caught.value


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in str(refused(tmp_path / "none.npz"))


def test_folder(tmp_path: Path) -> None:
    assert "folder" in str(refused(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file" * 100, bytes(64)])
def test_no_zip_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    refused(path)


def test_an_empty_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    zipfile.ZipFile(path, "w").close()
    assert "no input arrays" in str(refused(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pickled_objects_are_refused(tmp_path: Path, save: object) -> None:
    path = tmp_path / "samples.npz"
    save(path, x=np.array([{"a": 1}], dtype=object))  # type: ignore[operator]
    assert "objects" in str(refused(path))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00\xff\xff{}"])
def test_a_member_that_is_no_array(tmp_path: Path, compression: int, content: bytes) -> None:
    path = tmp_path / "samples.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", content)
    refused(path)


@pytest.mark.parametrize("shape", [(5, 10**12), (10**30,), (-5, -12), (4, 4)])
def test_a_header_that_claims_another_size(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "samples.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(60))
    refused(path)


def test_truncated_anywhere(npz: Path) -> None:
    whole = npz.read_bytes()
    for length in range(0, len(whole), 7):
        npz.write_bytes(whole[:length])
        refused(npz)


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header")
def test_a_flipped_byte_is_refused_or_harmless(npz: Path) -> None:
    """Stored data carry no checksum that is read, so a flip there may pass; it may not crash."""
    whole = npz.read_bytes()
    for position in range(len(whole)):
        npz.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            found = open_npz(npz)
        except BadSamples as error:
            assert error.hint
        else:
            assert isinstance(found, Samples)
