"""What an image is: the same from any lossless file, another for other pixels; read once. Oracles: hashlib by hand, and Pillow."""

import hashlib
import io
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.caching import remembered as remembering
from data.images import content
from data.images.content import canonical_order, contents, copies, file_digest, pixel_digest, sorted_digest
from data.images.decode import decode
from data.images.store import FileStore
from tests.data import trees


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembering, "FRESH", 0.0)  # files of a test are young


def packed(image: Image.Image, kind: str, **options) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def test_lossless_files_of_one_picture_are_one_image_and_a_row_of_pixels_too():
    picture = trees.picture(3)
    pixels = np.asarray(picture)
    files = [
        packed(picture, "PNG", compress_level=1),
        packed(picture, "PNG", compress_level=9),
        packed(picture, "BMP"),
        packed(picture, "PPM"),
        packed(picture, "WEBP", lossless=True),
    ]
    by_hand = hashlib.sha256(b"16 x 20 pixels\n" + pixels.tobytes()).digest()[:16]
    table = contents(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    assert len(set(files)) == 5 and {file_digest(data) for data in files} == {by_hand} == {table[0].tobytes()}


@pytest.mark.parametrize("kind, options", [("JPEG", {}), ("WEBP", {"quality": 80}), ("TIFF", {})])
def test_other_files_are_their_bytes(kind, options):
    data = packed(trees.picture(3), kind, **options)
    assert file_digest(data) == hashlib.sha256(data).digest()[:16]
    assert file_digest(data + b"x") != file_digest(data)


def test_a_turned_or_torn_file_is_its_bytes():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, torn = packed(trees.picture(3), "PNG", exif=exif), packed(trees.picture(3), "PNG")[:200]
    for data in (turned, torn):
        assert file_digest(data) == hashlib.sha256(data).digest()[:16]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data(), st.sampled_from(["PNG", "BMP", "PPM"]))
def test_images_of_one_digest_are_decoded_alike(height, width, data, kind):
    """Whatever two small pictures are: their digests are equal where their pixels are, and only there."""
    values = st.lists(st.integers(0, 1), min_size=3 * height * width, max_size=3 * height * width)
    one, two = (np.array(data.draw(values), np.uint8).reshape(height, width, 3) for _ in range(2))
    first, second = (packed(Image.fromarray(pixels), form) for pixels, form in ((one, "PNG"), (two, kind)))
    same = np.array_equal(decode(io.BytesIO(first), None), decode(io.BytesIO(second), None))
    assert (file_digest(first) == file_digest(second)) == same == np.array_equal(one, two)
    if height != width:
        assert pixel_digest(one) != pixel_digest(one.reshape(width, height, 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=16, max_size=16) | st.just(b"\0" * 16)), max_size=12), st.randoms())
def test_the_order_and_the_hash_of_rows_do_not_depend_on_how_they_came(rows, random):
    shuffled = random.sample(rows, len(rows))

    def table(pairs):
        return np.array([list(one) for _, one in pairs], np.uint8).reshape(-1, 16), np.array([label for label, _ in pairs], np.int64)

    (before, labels), (after, others) = table(rows), table(shuffled)
    order = canonical_order(after, others)
    assert [(others[row], after[row].tobytes()) for row in order] == sorted(rows)
    assert sorted_digest(before, labels) == sorted_digest(after, others)
    if rows:
        changed = before.copy()
        changed[0, 15] ^= 1
        assert sorted_digest(changed, labels) != sorted_digest(before, labels) != sorted_digest(before, labels + 1)
    assert copies(before, after[: len(rows) // 2]).tolist() == [
        row for row, (_, one) in enumerate(rows) if one in [other for _, other in shuffled[: len(rows) // 2]]
    ]


def made(root, count: int = 6) -> FileStore:
    for row in range(count):
        if not (root / f"{row}.jpg").exists():
            trees.save(root / f"{row}.jpg", row)
    return FileStore(root, [f"{row}.jpg" for row in range(count)], 8, 2)


def test_files_are_read_once_and_only_those_that_changed_again(tmp_path, monkeypatch):
    first, read = made(tmp_path).content(), []
    real = FileStore.read
    monkeypatch.setattr(FileStore, "read", lambda self, row: read.append(self.names[row]) or real(self, row))
    assert np.array_equal(made(tmp_path).content(), first) and read == []
    (tmp_path / "2.jpg").unlink()
    trees.save(tmp_path / "2.jpg", 77)
    trees.save(tmp_path / "6.jpg", 78)
    again = made(tmp_path, 7).content()
    assert sorted(read) == ["2.jpg", "6.jpg"] and np.array_equal(np.delete(again[:6], 2, 0), np.delete(first, 2, 0))
    assert [one.tobytes() for one in again] == [file_digest((tmp_path / f"{row}.jpg").read_bytes()) for row in range(7)]


def test_a_file_written_over_in_place_with_its_old_size_and_time_is_read_again(tmp_path):
    trees.picture(0).save(tmp_path / "0.bmp")
    before = FileStore(tmp_path, ["0.bmp"]).content()
    stat = (tmp_path / "0.bmp").stat()
    data = bytearray((tmp_path / "0.bmp").read_bytes())
    data[-1] ^= 1
    (tmp_path / "0.bmp").write_bytes(data)
    os.utime(tmp_path / "0.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not np.array_equal(FileStore(tmp_path, ["0.bmp"]).content(), before)


def test_what_is_young_is_not_remembered(tmp_path, monkeypatch):
    """A file may change twice within one tick of the file system's clock."""
    monkeypatch.setattr(remembering, "FRESH", 60.0)
    made(tmp_path).content()
    read = []
    monkeypatch.setattr(content, "file_digest", lambda data: read.append(data) or bytes(16))
    made(tmp_path).content()
    assert len(read) == 6
