"""Depth, transparency and colour against PNGs packed by hand and composited by definition."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.study.data.images import ImageError, decode, pixels

GREY, COLOUR, PALETTE, GREY_ALPHA, ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, ALPHA: 4}


def png(samples, depth, kind, *, key=None, palette=None, alphas=None):
    """A PNG of (rows, columns, channels) samples of `depth` bits, by the specification."""
    rows, columns, _ = samples.shape
    flat = samples.reshape(rows, -1)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in flat]
    else:  # high bits first, each row filled up to a whole byte
        bits = (flat[..., None] >> np.arange(depth)[::-1] & 1).reshape(rows, -1)
        lines = [np.packbits(row).tobytes() for row in bits.astype(np.uint8)]

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0))]
    if palette is not None:
        parts.append(chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    if key is not None:
        parts.append(chunk(b"tRNS", np.asarray(key, ">u2").tobytes()))
    if alphas is not None:
        parts.append(chunk(b"tRNS", np.asarray(alphas, np.uint8).tobytes()))
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def shown(colour, alpha):
    """Colours in 0…1 over white, as bytes."""
    return np.rint((colour * alpha + (1 - alpha)) * 255)


def close(path, expected, within=1):
    got = np.asarray(decode(path)).astype(int)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() <= within


samples = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(samples, st.sampled_from([1, 2, 4, 8, 16]), st.booleans())
def test_grey_of_every_depth_and_a_transparent_value(tmp_path_factory, rng, depth, hole):
    values = rng.integers(0, 2**depth, (9, 11, 1))
    values[rng.random(values.shape) < 0.3] = key = int(rng.integers(0, 2**depth))
    path = tmp_path_factory.getbasetemp() / "grey.png"
    path.write_bytes(png(values, depth, GREY, key=[key] if hole else None))
    expected = shown(values / (2**depth - 1), 1 - (values == key) * hole).repeat(3, -1)
    assert close(path, expected, within=1 if depth == 16 else 0)


@settings(max_examples=60, deadline=None)
@given(samples, st.sampled_from([8, 16]), st.booleans())
def test_colour_of_every_depth_and_a_transparent_one(tmp_path_factory, rng, depth, hole):
    values = rng.integers(0, 2**depth, (9, 11, 3))
    key = rng.integers(0, 2**depth, 3)
    values[rng.random((9, 11)) < 0.3] = key
    near = key.copy()
    near[int(rng.integers(3))] ^= 1  # the next colour there is: not transparent
    values[rng.random((9, 11)) < 0.3] = near
    path = tmp_path_factory.getbasetemp() / "colour.png"
    path.write_bytes(png(values, depth, COLOUR, key=key if hole else None))
    clear = (values == key).all(-1, keepdims=True) * hole
    high = values >> (depth - 8)  # Pillow keeps the upper byte of a colour
    assert close(path, shown(high / 255, 1 - clear), within=0)


@settings(max_examples=40, deadline=None)
@given(samples, st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_palettes_with_an_alpha_for_every_colour(tmp_path_factory, rng, depth, binary):
    size = 2**depth
    palette, alphas = rng.integers(0, 256, (size, 3)), rng.integers(0, 256, size)
    if binary:
        alphas = np.where(rng.random(size) < 0.5, 0, 255)
    values = rng.integers(0, size, (9, 11, 1))
    path = tmp_path_factory.getbasetemp() / "palette.png"
    path.write_bytes(png(values, depth, PALETTE, palette=palette, alphas=alphas))
    at = values[..., 0]
    assert close(path, shown(palette[at] / 255, alphas[at][..., None] / 255))


@settings(max_examples=40, deadline=None)
@given(samples, st.sampled_from([8, 16]), st.sampled_from([GREY_ALPHA, ALPHA]))
def test_alpha_channels_of_every_depth(tmp_path_factory, rng, depth, kind):
    values = rng.integers(0, 2**depth, (9, 11, CHANNELS[kind]))
    path = tmp_path_factory.getbasetemp() / "alpha.png"
    path.write_bytes(png(values, depth, kind))
    whole = values / (2**depth - 1)
    colour = whole[..., :-1].repeat(1 if kind == ALPHA else 3, -1)
    assert close(path, shown(colour, whole[..., -1:]), within=2)


def handed(monkeypatch, path, image):
    """Have `decode` find this image in a file."""
    Image.new("1", (1, 1)).save(path)
    found = pixels.open_image(path)._replace(image=image)
    monkeypatch.setattr(pixels, "open_image", lambda _: found)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "La", "RGBa", "PA", "RGBX"])
def test_rarer_modes_become_rgb(tmp_path, mode, monkeypatch):
    source = Image.new("RGB", (12, 10), (255, 0, 51))
    step = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")
    expected = source.convert(step).convert("RGB")
    handed(monkeypatch, tmp_path / "x.png", source.convert(step).convert(mode))
    gap = np.asarray(decode(tmp_path / "x.png")).astype(int) - np.asarray(expected)
    assert np.abs(gap).max() <= 3


def test_pixels_that_pillow_cannot_convert_are_named(tmp_path, monkeypatch):
    class Odd:
        mode, info, width, height, has_transparency_data = "ODD", {}, 9, 9, False

        def convert(self, mode):
            raise ValueError(f"conversion from ODD to {mode} not supported")

    handed(monkeypatch, tmp_path / "x.png", Odd())
    with pytest.raises(ImageError, match=r"x\.png: its pixels are ODD .* Save it as 8-bit RGB"):
        decode(tmp_path / "x.png")


def test_a_palette_with_more_alphas_than_colours(tmp_path):
    data = png(np.zeros((4, 4, 1), int), 8, PALETTE, palette=[[9, 9, 9]], alphas=[0] * 999)
    (tmp_path / "x.png").write_bytes(data)
    assert (np.asarray(decode(tmp_path / "x.png")) == 255).all()


def test_a_large_image_is_reduced_strip_by_strip(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, (75, 50, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    whole = decode(tmp_path / "x.png")
    monkeypatch.setattr(pixels, "MANY", 500)
    monkeypatch.setattr(pixels, "_STRIP", 400)
    small = decode(tmp_path / "x.png")
    assert small.size == (17, 25)  # 50 and 75 by 3: the least whole number that suffices
    assert np.array_equal(np.asarray(small), np.asarray(whole.reduce(3)))


def test_a_transparent_colour_survives_the_reduction(tmp_path, monkeypatch):
    values = np.full((40, 40, 3), 40000)
    values[:, 20:] = 40001
    (tmp_path / "x.png").write_bytes(png(values, 16, COLOUR, key=[40000] * 3))
    monkeypatch.setattr(pixels, "MANY", 500)
    small = np.asarray(decode(tmp_path / "x.png"))
    assert small.shape == (20, 20, 3)
    assert (small[:, :10] == 255).all() and (small[:, 10:] == 40001 >> 8).all()
