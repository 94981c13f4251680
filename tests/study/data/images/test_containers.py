"""Damaged, foreign, missing and huge files: one line that names the file, and memory is bounded."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.study.data.images import ImageError, containers, decode, open_image
from lib.study.paths import PACKAGE

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
FORMS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]


def encoded(form):
    stream = io.BytesIO()
    NOISE.save(stream, form)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damage_is_one_line_with_the_file_s_name(tmp_path_factory, form, data):
    whole = bytearray(encoded(form))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{form.lower()}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert decode(path).mode == "RGB"
    except ImageError as error:
        assert f"{path}" in str(error) and "\n" not in str(error) and "0x" not in str(error)


@pytest.mark.parametrize("form", FORMS)
def test_half_a_file_is_said_to_be_damaged(tmp_path, form):
    path = tmp_path / "half"
    path.write_bytes(encoded(form)[: len(encoded(form)) // 2])
    with pytest.raises(ImageError, match=r"cannot read image .*half: .* damaged .* replace it"):
        decode(path)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.png: no format that is known here\. The file is"):
        open_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match=r"image file is missing: .*gone\.png"):
        open_image(tmp_path / "gone.png")
    for odd in (tmp_path, tmp_path / "text.png" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(ImageError, match=f"cannot read image {odd}: "):
            open_image(odd)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"pHYs", b"\0"),
        chunk(b"iCCP", b"profile\0\7nothing"),
        chunk(b"gAMA", b""),
        chunk(b"iTXt", b"\xff" * 9),
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3 << 20))),
        struct.pack(">I", 4) + b"tEXtnote" + b"sum?",
    ],
    ids=["pHYs", "iCCP", "gAMA", "iTXt", "text bomb", "check sum"],
)
def test_a_png_with_odd_chunks_shows_its_pixels(tmp_path, odd):
    data = encoded("PNG")
    turned = chunk(b"eXIf", b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 3, 0))
    (tmp_path / "x.png").write_bytes(data[:33] + turned + odd + data[33:])
    assert np.array_equal(decode(tmp_path / "x.png"), np.asarray(NOISE)[::-1, ::-1])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 14_000, 60_000])
def test_a_bomb_is_one_line(tmp_path, side):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    with pytest.raises(
        ImageError, match=r"bomb\.png is too large: .* Scale it down first"
    ) as error:
        decode(tmp_path / "bomb.png")
    assert "\n" not in str(error.value)


def test_a_large_jpeg_is_decoded_to_a_smaller_size(tmp_path, monkeypatch):
    ramp = np.add.outer(np.arange(320), np.arange(480)) % 256
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "x.jpg", quality=95)
    monkeypatch.setattr(containers, "MANY", 10_000)
    assert open_image(tmp_path / "x.jpg").image.size == (120, 80)
    monkeypatch.setattr(containers, "MANY", 100)
    assert open_image(tmp_path / "x.jpg").image.size == (60, 40)  # an eighth is the least
    monkeypatch.setattr(containers, "LARGEST", 1000)
    with pytest.raises(ImageError, match=r"decoding 480 x 320 pixels takes 0 MB"):
        open_image(tmp_path / "x.jpg")


MEASURE = """
import resource, sys
from lib.study.data.images import decode as load_image
load_image(sys.argv[1])  # once, for what the decoder keeps
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_image(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("mode, size", [("RGB", (7000, 7000))])
def test_memory_is_bounded(tmp_path, mode, size):
    Image.new("RGB", (40, 40)).save(tmp_path / "small.png")
    image = Image.new(mode, size, 1)
    image.save(tmp_path / "large.png", compress_level=1)
    del image
    command = [sys.executable, "-c", MEASURE, tmp_path / "small.png", tmp_path / "large.png"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300_000, done.stderr
