"""Every kind of pixel, value by value. The oracle: what was written, scaled by hand; the CIE's formulas for LAB."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from data.images.decode import CorruptImage, decode, is_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def read(image: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    held = io.BytesIO()
    image.save(held, kind, **options)
    held.seek(0)
    return decode(held, None)


def png(kind: int, rows: np.ndarray) -> io.BytesIO:
    """-> a PNG of 16 bits a channel, which Pillow cannot write: kind 2 is RGB, 4 grey and alpha, 6 RGBA; rows [H, W, channels]"""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_8_bits_are_kept(kind):
    colours = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert np.array_equal(read(Image.fromarray(colours), kind), colours)
    assert np.array_equal(read(Image.fromarray(RAMP), kind), grey(RAMP))


def test_1_bit_is_black_and_white():
    assert np.array_equal(read(Image.fromarray(RAMP > 100)), grey(np.where(RAMP > 100, 255, 0)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_the_upper_byte(kind):
    assert np.array_equal(read(Image.fromarray(RAMP.astype(np.uint16) * 257), kind), grey(RAMP))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_in_16_are_scaled_where_the_file_says_so_and_refused_where_not(bits):
    top = 2**bits - 1
    values = np.rint(RAMP * (top / 255)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        with pytest.raises(CorruptImage, match=f"grey values end at {top} and it does not say.*save it with 8 bits"):
            read(Image.fromarray(values), kind)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = top  # MaxSampleValue
    assert np.array_equal(read(Image.fromarray(values), "TIFF", tiffinfo=tags), grey(RAMP))
    pgm = io.BytesIO(f"P5 16 16 {top}\n".encode() + values.astype(">u2").tobytes())
    assert np.abs(decode(pgm, None).astype(int) - grey(RAMP)).max() <= 1  # Pillow scales to 16 bits first


def test_black_in_16_bits_is_black():
    assert (read(Image.fromarray(np.zeros((4, 4), np.uint16))) == 0).all()


def test_whole_numbers_of_32_bits_must_say_their_range():
    for values in (RAMP.astype(np.int32), RAMP.astype(np.int32) * 257 * 4, RAMP.astype(np.int32) - 5):
        with pytest.raises(CorruptImage, match="grey values"):
            read(Image.fromarray(values), "TIFF")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 255
    assert np.array_equal(read(Image.fromarray(RAMP.astype(np.int32)), "TIFF", tiffinfo=tags), grey(RAMP))


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_floating_point_is_0_to_1(kind):
    assert np.array_equal(read(Image.fromarray((RAMP / 255).astype(np.float32)), kind), grey(RAMP))


@pytest.mark.parametrize("worst", [1.5, 255.0, -0.1, np.nan, np.inf])
def test_other_floating_point_is_refused(worst):
    values = np.full((3, 3), 0.5, np.float32)
    values[1, 1] = worst
    with pytest.raises(CorruptImage, match="floating-point values run from|not finite"):
        read(Image.fromarray(values), "TIFF")


def test_16_bits_a_channel():
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3))
    assert np.array_equal(decode(png(2, colours * 257), None), colours)
    with pytest.raises(CorruptImage, match="16 bits a channel use the lower half"):
        decode(png(2, colours * 16), None)  # 12 bits
    assert np.array_equal(decode(png(4, np.array([[[65535, 0], [0, 65535], [65535, 65535]]])), None), grey([[255, 0, 255]]))


def test_palettes_are_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert read(image).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert read(image, transparency=1).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert read(image, "GIF").tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_over_white(kind):
    """Oracle: colour * alpha + white * (1 - alpha)"""
    random = np.random.default_rng(0)
    clear = random.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    alpha = clear[..., 3:] / 255
    found = read(Image.fromarray(clear), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.abs(found - (clear[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    if kind == "PNG":
        assert read(Image.fromarray(clear[..., [0, 3]], "LA"))[..., 0] == pytest.approx(
            (clear[..., :1] * alpha + 255 * (1 - alpha))[..., 0], abs=1
        )
        assert read(Image.new("RGB", (1, 1), (9, 8, 7)), transparency=(9, 8, 7)).tolist() == [[[255, 255, 255]]]
        assert read(Image.new("L", (1, 1), 9), transparency=9).tolist() == [[[255, 255, 255]]]


def test_cmyk_is_ink_on_white():
    for ink, colour in (((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        assert read(Image.new("CMYK", (1, 1), ink), "TIFF").tolist() == [[list(colour)]]
        assert np.abs(read(Image.new("CMYK", (8, 8), ink), "JPEG", quality=100).astype(int) - colour).max() <= 3


def srgb_of_lab(lightness: float, a: float, b: float) -> np.ndarray:
    """CIE 15: LAB under D50 -> XYZ -> sRGB, by the Bradford-adapted matrix (Lindbloom)"""
    y = (lightness + 16) / 116
    cube = [v**3 if v > 6 / 29 else 3 * (6 / 29) ** 2 * (v - 4 / 29) for v in (y + a / 500, y, y - b / 200)]
    xyz = np.array(cube) * (0.96422, 1.0, 0.82521)
    matrix = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    linear = np.clip(matrix @ xyz, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("lab", [(50, 0, 0), (50, 20, 10), (70, -25, 30), (100, 0, 0), (0, 0, 0), (40, 10, -40)])
def test_lab_is_a_colour(lab):
    stored = Image.fromarray(np.array([[[round(lab[0] * 2.55), lab[1] % 256, lab[2] % 256]]], np.uint8), "LAB")
    assert np.abs(read(stored, "TIFF")[0, 0] - srgb_of_lab(*lab)).max() <= 2.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_followed(kind, orientation):
    """Oracle: the table of the EXIF standard, as numpy turns"""
    turned = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }[orientation]
    blocks = np.kron(np.array([[0, 90, 180], [255, 40, 130]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(Image.fromarray(grey(blocks)), kind, exif=exif, quality=100)
    assert found.shape == turned(grey(blocks)).shape
    assert np.abs(found.astype(int) - turned(grey(blocks))).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("ending", ["", ".data", ".txt"])
def test_an_image_is_known_by_its_content(kind, ending, tmp_path):
    Image.fromarray(grey(RAMP)).save(tmp_path / "x", kind)
    os.replace(tmp_path / "x", tmp_path / f"image{ending}")
    assert is_image(str(tmp_path / f"image{ending}"))
    assert np.abs(decode(tmp_path / f"image{ending}", None).astype(int) - grey(RAMP)).mean() < 8


@pytest.mark.parametrize(
    "content", [b"", b"words", b"P5 is the fifth", b"BM", b"BMW is a car, they say", b"GIF89a", b"II*\0", b"\0" * 99, b"%!PS"]
)
def test_what_is_no_image_is_known_too(content, tmp_path):
    (tmp_path / "x.dat").write_bytes(content)
    assert not is_image(str(tmp_path / "x.dat")) and not is_image(str(tmp_path / "none"))


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".avif", ".jp2", ".JPG", ".apng", ".pnm", ".mpo", ".tga"])
def test_endings_of_images(ending):
    assert is_image(f"nowhere/x{ending}")


def test_a_file_that_starts_a_program_is_no_image(tmp_path):
    """Pillow hands EPS to Ghostscript."""
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    assert not is_image(str(tmp_path / "x.eps"))
    with pytest.raises(CorruptImage):
        decode(tmp_path / "x.eps", None)
