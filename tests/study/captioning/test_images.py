"""Image files as a viewer would show them, neither tiny nor endlessly long, in bounded memory."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from lib.study.captioning import ImageError, caption, load_image
from lib.study.captioning.images import LONGEST, SMALLEST_SIDE
from lib.study.records import read_records
from tests.study.captioning.kit import QUICK, Picture

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})


def test_images_of_every_mode_become_rgb_as_documented(tmp_path):
    def back(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        result = load_image(tmp_path / name)
        assert result.mode == "RGB"
        return np.asarray(result)

    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (back(Image.fromarray(ramp)) == ramp[..., None]).all()
    clear = np.zeros((9, 10, 4), np.uint8)
    clear[:, :5] = (255, 0, 0, 255)
    rgba = back(Image.fromarray(clear))
    assert (rgba[:, :5] == (255, 0, 0)).all() and (rgba[:, 5:] == 255).all()
    palette = Image.fromarray(ramp % 3).convert("L")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    expected = np.eye(3, dtype=np.uint8)[ramp % 3] * 255
    assert (back(palette) == expected).all()
    see_through = back(palette, transparency=0)
    assert (see_through[ramp % 3 == 0] == 255).all()
    assert (see_through[ramp % 3 != 0] == expected[ramp % 3 != 0]).all()
    sixteen = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert (back(Image.fromarray(sixteen)) == ramp[..., None]).all()
    assert (back(Image.fromarray(sixteen.astype(np.int32)), "x.tif") == ramp[..., None]).all()
    assert (back(Image.fromarray(ramp.astype(np.int32)), "x.tif") == ramp[..., None]).all()
    floating = (ramp.astype(np.float32) - 50) * 2
    assert (back(Image.fromarray(floating), "x.tif") == np.clip(floating, 0, 255)[..., None]).all()
    assert (back(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "x.jpg") - (254, 0, 0) < 3).all()
    assert (back(Image.new("1", (9, 9), 1)) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to display
    wide = Image.fromarray(
        np.where(np.arange(20) < 10, 255, 0).astype(np.uint8)[None].repeat(10, 0)
    )
    turned = back(wide, "x.jpg", exif=exif, quality=100)
    assert turned.shape == (20, 10, 3) and turned[2].min() > 250 and turned[-3].max() < 5
    dot = back(Image.new("RGB", (1, 1), (1, 2, 3)))
    assert dot.shape == (8, 8, 3) and (dot == (1, 2, 3)).all()
    assert back(Image.new("RGB", (3, 30))).shape == (30, 8, 3)


def test_odd_images_are_captioned(kit, tmp_path):
    for number, mode in enumerate(["L", "RGBA", "P", "I;16", "1", "LA", "RGB"]):
        Image.new(mode, (1, 1) if mode == "RGB" else (30, 20)).save(tmp_path / f"{number}.png")
    examples = [Picture(n, tmp_path / f"{n}.png") for n in range(7)]
    assert len(caption(*kit, examples, **QUICK)) == 7


def test_bad_images_are_named_and_nothing_recorded_is_lost(kit, pictures, tmp_path):
    truncated, text = tmp_path / "truncated.jpg", tmp_path / "text.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:20000])
    text.write_text("not an image")
    for bad, pattern in ((truncated, r"truncated\.jpg: .*truncated"), (text, r"text\.png: ")):
        folder = tmp_path / bad.stem
        examples = [*pictures[:6], Picture(1, bad), pictures[7]]
        with pytest.raises(ImageError, match=rf"cannot read image .*{pattern}"):
            caption(*kit, examples, records=folder, **QUICK)
        assert [r["image_id"] for r in read_records(folder)] == [e.image_id for e in pictures[:6]]
        Image.new("RGB", (9, 9)).save(bad)  # repaired: the run continues
        assert len(caption(*kit, examples, records=folder, **QUICK)) == 8
    missing = [*pictures[:6], Picture(1, tmp_path / "gone.jpg")]
    with pytest.raises(ImageError, match=r"image file is missing: .*gone\.jpg"):
        caption(*kit, missing, records=tmp_path / "m", **QUICK)
    with pytest.raises(ImageError, match=r"image file is missing: .*gone\.jpg"):
        load_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"without references: .*3\.png \(image_id 9\)"):
        caption(*kit, [Picture(9, pictures[3].path, ())], **QUICK)


def pixels(image):
    return PROCESSOR(images=image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("length", [20_000, 65_500])
@pytest.mark.parametrize("upright", [False, True])
def test_a_line_of_pixels_stays_small(tmp_path, length, upright):
    Image.new("RGB", (1, length) if upright else (length, 1), "red").save(tmp_path / "line.png")
    image = load_image(tmp_path / "line.png")
    assert max(image.size) <= LONGEST * SMALLEST_SIDE and min(image.size) == SMALLEST_SIDE
    assert (np.asarray(image) == (255, 0, 0)).all()


@pytest.mark.parametrize("turned", [False, True])
def test_the_processor_sees_the_same_middle(tmp_path, turned):
    """Of a long image it would have cut out the middle after scaling all of it."""
    ramp = np.random.default_rng(0).integers(0, 256, (9, 1201, 3), dtype=np.uint8)
    image = Image.fromarray(ramp.swapaxes(0, 1) if turned else ramp)
    image.save(tmp_path / "long.png")
    loaded = load_image(tmp_path / "long.png")
    assert loaded.size != image.size
    assert np.allclose(pixels(loaded), pixels(image), atol=0.15)  # a hundredth of a pixel apart


def test_an_ordinary_image_is_left_as_it_is(tmp_path):
    ramp = np.random.default_rng(0).integers(0, 256, (10, 10 * LONGEST, 3), dtype=np.uint8)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    assert np.array_equal(load_image(tmp_path / "x.png"), ramp)
