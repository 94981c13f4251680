"""One odd entry beside the orientation: the image is turned all the same."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.study.data.images import decode
from lib.study.data.images.orientation import exif_orientation, orientation

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
#: rows and columns as a viewer shows them, by orientation (Exif 2.32, table of tag 0x0112)
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def encoded(form, **options):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, form, **options)
    return stream.getvalue()


PLAIN = {form: encoded(form) for form in ("JPEG", "PNG")} | {"WEBP": encoded("WEBP", lossless=True)}


def block(value, entries, order=">", tail=b""):
    """An EXIF block: the orientation among (tag, type, count, value) entries, sorted by tag."""
    rows = sorted([*entries, (0x0112, 3, 1, struct.pack(order + "H", value) + b"\0\0")])
    body = b"".join(struct.pack(order + "HHI", *row[:3]) + row[3] for row in rows)
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, len(rows)) + body + tail


def with_exif(form, exif):
    """A file that carries an EXIF block, written without Pillow's help."""
    data = PLAIN[form]
    if form == "JPEG":
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    if form == "PNG":
        chunk = b"eXIf" + exif[6:]
        size, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
        return data[:33] + size + chunk + check + data[33:]
    return encoded("WEBP", lossless=True, exif=exif)


entries = st.lists(
    st.tuples(
        st.one_of(
            # dots an inch, description, pointers to further lists, maker note, and any other
            st.sampled_from([0x011A, 0x0128, 0x010E, 0x8769, 0x8825, 0xA005, 0x014A, 0x927C]),
            st.integers(0, 65535),
        ).filter(lambda tag: tag != 0x0112),
        st.one_of(st.integers(0, 17), st.integers(0, 65535)),
        st.sampled_from([0, 1, 2, 4, 5, 1000, 2**31, 2**32 - 1]),
        st.one_of(
            st.sampled_from([bytes(4), b"\xff" * 4, b"\0\0\0\1"]), st.binary(min_size=4, max_size=4)
        ),
    ),
    max_size=4,
)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it cannot make of the rest
@pytest.mark.parametrize("form", PLAIN)
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), entries, st.sampled_from("<>"), st.binary(max_size=24))
@example(6, [(0x0128, 1, 1, b"\0\0\0\1")], ">", b"")
@example(6, [(0x0128, 4, 1, b"\xff" * 4)], ">", b"")
@example(6, [(0x010E, 11, 1, b"\0\0\0\1")], ">", b"")
@example(6, [(0x011A, 1, 1, b"\0\0\0\1")], ">", b"")
@example(6, [(0x011A, 2, 1, b"7\0\0\0")], ">", b"")
@example(6, [(0x011A, 11, 1, b"\xff" * 4)], ">", b"")
def test_whatever_else_the_exif_holds(tmp_path_factory, form, value, others, order, tail):
    path = tmp_path_factory.getbasetemp() / f"exif.{form.lower()}"
    path.write_bytes(with_exif(form, block(value, others, order, tail)))
    with Image.open(io.BytesIO(PLAIN[form])) as plain:
        expected = SHOWN[value](np.asarray(plain.convert("RGB")))
    assert np.array_equal(np.asarray(decode(path)), expected)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([0xE0, 0xE2, 0xEC, 0xED, 0xEE, 0xFE]),
    st.sampled_from(
        [
            b"MPF\0MM\0*\0\0\0\x08",
            b"MPF\0II*\0\x08\0\0\0",
            b"ICC_PROFILE\0",
            b"Photoshop 3.0\0",
            b"JFIF\0",
            b"FPXR\0",
            b"http://ns.adobe.com/xap/1.0/\0",
            b"",
        ],
    ),
    st.binary(max_size=40),
)
@example(0xE0, b"JFIF\0", b"")
@example(0xE2, b"MPF\0MM\0*\0\0\0\x08", b"\0\0\0\0")
def test_odd_segments_of_other_programs(tmp_path_factory, marker, name, rest):
    body = name + rest
    odd = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
    data = with_exif("JPEG", block(8, []))
    path = tmp_path_factory.getbasetemp() / "segments.jpg"
    path.write_bytes(data[:2] + odd + data[2:])
    with Image.open(io.BytesIO(PLAIN["JPEG"])) as plain:
        assert np.array_equal(np.asarray(decode(path)), SHOWN[8](np.asarray(plain)))


@given(st.binary(max_size=80))
@example(b"Exif\0\0MM\0*\0\0\0\x08")
@example(b"Exif\0\0II*\0\xff\xff\xff\xff")
def test_no_bytes_at_all_make_it_fail(exif):
    assert exif_orientation(exif) in {None, *range(1, 9)}
    assert orientation({"exif": exif}) in range(1, 9)
    assert orientation({"Raw profile type exif": exif.decode("latin-1")}) in range(1, 9)
    assert orientation({"xmp": exif}) in range(1, 9)


@pytest.mark.parametrize("kind, form", [(1, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i")])
@pytest.mark.parametrize("order", "<>")
def test_a_whole_number_of_any_size_is_understood(kind, form, order):
    value = struct.pack(order + form, 7).ljust(4, b"\0")
    rows = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    mark = b"MM\0*" if order == ">" else b"II*\0"
    assert exif_orientation(mark + struct.pack(order + "IH", 8, 1) + rows) == 7


def test_xmp_and_image_magick_s_profile_count_where_there_is_no_exif(tmp_path):
    packet = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert orientation({"XML:com.adobe.xmp": packet}) == 6
    assert orientation({"xmp": b"<tiff:Orientation>3</tiff:Orientation>"}) == 3
    assert orientation({"exif": block(8, []), "xmp": packet.encode()}) == 8
    profile = f"\nexif\n      34\n{block(5, []).hex()}\n"
    assert orientation({"Raw profile type exif": profile}) == 5
    assert orientation({}) == orientation({"xmp": None, "exif": None}) == 1


def test_a_tiff_is_turned_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.tif", exif=exif)
    assert np.array_equal(np.asarray(decode(tmp_path / "turned.tif")), SHOWN[6](PIXELS))
