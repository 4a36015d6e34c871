"""Images as a viewer shows them: ranges, orientation, transparency, colour modes, and what is no image."""

import io
import os
import pickle
import socket
import struct
import tempfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxnas import data
from jaxnas.data import crops, decoding

WHITE, BLACK = np.array([255, 255, 255]), np.array([0, 0, 0])


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height=40, width=60, seed=0):
    """Smooth enough for JPEG, different in each channel and corner."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def differ(decoded, expected):
    assert decoded.dtype == np.uint8
    assert decoded.shape == (*np.shape(expected)[:2], 3)
    expected = np.asarray(expected, float)
    return np.abs(decoded - (expected if expected.ndim == 3 else expected[..., None])).max()


def png(width, height, bits, colour, rows, *chunks):
    """A PNG file by hand: Pillow does not write all that it reads."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), *(chunk(*one) for one in chunks), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Ranges

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_its_range(kind):
    decoded = data.decode(encode(Image.fromarray(RAMP), kind))
    np.testing.assert_array_equal(decoded, np.rint(RAMP / 257)[..., None].repeat(3, -1))


def test_grey_of_16_bits_in_the_other_byte_order():
    assert differ(data.decode(encode(Image.fromarray(RAMP.astype(">u2")), "TIFF")), np.rint(RAMP / 257)) == 0


def test_colours_of_16_bits_keep_their_range():
    levels = np.stack([RAMP[:, :, None].repeat(3, -1)[..., channel] // (channel + 1) for channel in range(3)], -1)
    decoded = data.decode(png(64, 64, 16, 2, [row.astype(">u2").tobytes() for row in levels]))
    assert differ(decoded, levels / 257) < 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_reaches_white(bits):
    levels = np.tile(np.arange(1 << bits, dtype=np.uint8), 64 // (1 << bits))  # 64 pixels
    packed = np.packbits(np.unpackbits(levels[:, None], 1)[:, 8 - bits :].ravel()).tobytes()
    decoded = data.decode(png(64, 2, bits, 0, [packed, packed]))
    np.testing.assert_array_equal(decoded[0, :, 0], np.rint(levels * (255 / ((1 << bits) - 1))))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.linspace(0, 1, 4096), 0, 1),
        (np.linspace(0.25, 0.5, 4096), 0, 1),  # not stretched: other images of the set may be brighter
        (np.arange(4096) % 200, 0, 255),  # 8 bits, kept as floating-point values
        (np.linspace(3.3, 240.7, 4096), 0, 255),
        (np.arange(4096) * 16, 0, 65535),
        (np.linspace(-3, 5, 4096), -3, 5),
        (np.linspace(0, 1000, 4096) + 0.5, 0.5, 1000.5),
    ],
)
def test_floating_point_grey_keeps_its_range(values, low, high):
    values = values.reshape(64, 64).astype(np.float32)
    decoded = data.decode(encode(Image.fromarray(values), "TIFF"))
    assert differ(decoded, (values - low) / (high - low) * 255) <= 0.51


def test_integers_of_32_bits_keep_their_range():
    for values in (np.arange(4096), np.arange(4096) * 100_000, np.arange(4096) - 1000):
        low, high = (0, 65535) if 0 <= values.min() <= values.max() <= 65535 else (values.min(), values.max())
        image = Image.fromarray(values.reshape(64, 64).astype(np.int32))
        expected = (values - low).reshape(64, 64) / (high - low) * 255
        assert differ(data.decode(encode(image, "TIFF")), expected) <= 0.51


def test_a_declared_range_is_taken():
    values = np.linspace(0, 2, 4096, dtype=np.float32).reshape(64, 64)
    encoded = encode(Image.fromarray(values), "TIFF", tiffinfo={340: 0.0, 341: 4.0})
    assert differ(data.decode(encoded), values / 4 * 255) <= 0.51


def test_values_that_are_no_numbers():
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    values[0, :3] = np.nan, np.inf, -np.inf
    decoded = data.decode(encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(decoded[0, :3, 0], [0, 255, 0])
    constant = data.decode(encode(Image.fromarray(np.full((16, 16), 7.5, np.float32)), "TIFF"))
    assert np.ptp(constant) == 0
    for value in (1e30, -1e38):  # beside which 1 is nothing
        constant = data.decode(encode(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF"))
        np.testing.assert_array_equal(constant, 128)


def test_white_is_zero_is_turned_round():
    for values in (RAMP, (RAMP >> 8).astype(np.uint8)):
        as_stored = data.decode(encode(Image.fromarray(values), "TIFF"))
        inverted = data.decode(encode(Image.fromarray(values), "TIFF", tiffinfo={262: 0}))
        if values.dtype == np.uint8:  # Pillow writes these inverted, so that they look as before
            np.testing.assert_array_equal(inverted, as_stored)
        else:
            np.testing.assert_array_equal(inverted, 255 - as_stored)


# Orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(9))
def test_the_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation  # 0 is none
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = encode(Image.fromarray(noise()), kind, exif=exif, **options)
    opened = Image.open(io.BytesIO(encoded))
    opened.load()
    expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(data.decode(encoded), expected)
    assert decoding.EncodedImage(encoded).size == expected.shape[1::-1]


def test_orientation_by_hand():
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:4] = 255, 0, 0  # red at the top as stored
    exif = Image.Exif()
    exif[274] = 6
    shown = data.decode(encode(Image.fromarray(stored), "PNG", exif=exif))
    assert shown.shape == (32, 16, 3)
    np.testing.assert_array_equal(shown[:, 12:], np.broadcast_to([255, 0, 0], (32, 4, 3)))  # at the right as shown
    assert not shown[:, :12].any()


def test_damaged_exif_is_no_reason_to_drop_an_image():
    encoded = encode(Image.fromarray(noise()), "JPEG")
    block = b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(20)
    broken = encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + encoded[2:]
    np.testing.assert_array_equal(data.decode(broken), data.decode(encoded))


def test_crops_are_of_the_image_as_shown():
    """A tall photograph stored on its side: the central crop of its middle, at a reduced scale."""
    shown = np.zeros((1024, 512, 3), np.uint8)
    shown[256:768] = noise(512, 512)
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.fromarray(np.rot90(shown))  # which orientation 6 turns back
    turned = crops.decode_crop(encode(stored, "JPEG", exif=exif, quality=95), 64, None)
    upright = crops.decode_crop(encode(Image.fromarray(shown), "JPEG", quality=95), 64, None)
    assert np.abs(turned.astype(int) - upright).mean() < 2


# Transparency


def glyph(mode="RGBA"):
    """A black square on a transparent ground that is red or grey below."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., :3] = 200, 0, 0
    pixels[4:12, 4:12] = 0, 0, 0, 255
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("RGBA", "GIF"), ("LA", "PNG"), ("LA", "TIFF"), ("P", "PNG")],
)
def test_transparent_images_lie_on_a_ground(mode, kind):
    image = glyph().quantize(8) if mode == "P" else glyph(mode)
    encoded = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    for background in ((255, 255, 255), (0, 128, 255)):
        decoded = data.decode(encoded, background=background)
        np.testing.assert_array_equal(decoded[0, 0], background)
        np.testing.assert_array_equal(decoded[8, 8], BLACK)
    np.testing.assert_array_equal(data.decode(encoded)[0, 0], WHITE)


def test_half_transparent_pixels_mix_with_the_ground():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    alpha = pixels[..., 3:] / 255
    for ground in (255, 100):
        expected = pixels[..., :3] * alpha + ground * (1 - alpha)
        assert differ(data.decode(encode(Image.fromarray(pixels), "PNG"), background=(ground,) * 3), expected) <= 0.51


@pytest.mark.parametrize(("bits", "depth"), [(8, np.uint8), (16, np.dtype(">u2"))])
def test_one_colour_declared_transparent(bits, depth):
    grey = np.full((8, 8), 10 << (bits - 8))
    grey[2:6, 2:6] = 77 << (bits - 8)
    encoded = png(
        8, 8, bits, 0, [row.astype(depth).tobytes() for row in grey], (b"tRNS", struct.pack(">H", grey[0, 0]))
    )
    decoded = data.decode(encoded)
    np.testing.assert_array_equal(decoded[0, 0], WHITE)
    assert abs(int(decoded[3, 3, 0]) - 77) <= 1
    colour = np.stack([grey, grey * 0, grey * 0], -1)
    entry = struct.pack(">HHH", *colour[0, 0])
    decoded = data.decode(png(8, 8, bits, 2, [row.astype(depth).tobytes() for row in colour], (b"tRNS", entry)))
    np.testing.assert_array_equal(decoded[0, 0], WHITE)
    np.testing.assert_array_equal(decoded[3, 3, 1:], 0)


def test_a_background_that_is_no_colour():
    for background in ((255, 255), (0, 0, 256)):
        with pytest.raises(ValueError, match="background must be three values") as raised:
            data.decode(encode(glyph(), "PNG"), background=background)
        assert not isinstance(raised.value, data.BadImageError)


# Modes and formats


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
def test_modes_are_those_of_pillow(mode, kind):
    image = Image.fromarray(noise()).convert(mode)
    try:
        encoded = encode(image, kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no mode {mode}")
    expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    np.testing.assert_array_equal(data.decode(encoded), np.asarray(expected))


def test_cmyk_looks_like_the_original():
    """As TIFF has it, and inverted, as Adobe's JPEG has it."""
    original = noise()
    cmyk = Image.fromarray(original).convert("CMYK")
    assert differ(data.decode(encode(cmyk, "TIFF")), original) <= 1
    encoded = encode(cmyk, "JPEG", quality=100)
    assert b"Adobe" in encoded
    assert differ(data.decode(encoded), original) < 20
    np.testing.assert_array_equal(data.decode(encode(Image.new("CMYK", (16, 16)), "JPEG"))[0, 0], WHITE)  # no ink


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(encoded)).n_frames == 3
    np.testing.assert_array_equal(data.decode(encoded), np.broadcast_to([255, 0, 0], (16, 16, 3)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_grey_stays_one_signal(kind):
    image, options = Image.fromarray(noise()).convert("L"), {"lossless": True} if kind == "WEBP" else {}
    encoded = encode(image, kind, **options)
    for decoded in (data.decode(encoded), crops.decode_crop(encoded, 16, None)):
        np.testing.assert_array_equal(decoded[..., 0], decoded[..., 1])
        np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("shape", [(40, 60), (33, 17), (1, 9)])
def test_plain_jpegs_decode_as_pillow_decodes_them(shape, subsampling, progressive, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)  # the hardest for JPEG
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("L")):
        options = {"subsampling": subsampling} if image.mode == "RGB" else {}
        encoded = encode(image, "JPEG", progressive=progressive, **options)
        decoded = data.decode(encoded)
        monkeypatch.setattr(decoding, "_opencv", lambda: None)
        without = data.decode(encoded)
        monkeypatch.undo()
        np.testing.assert_array_equal(without, np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))
        assert differ(decoded, without) <= 1


# What is no image


def bombs():
    yield "PNG", png(50_000, 50_000, 8, 0, [b""])
    yield (
        "BMP",
        encode(Image.new("1", (8, 8)), "BMP").replace(
            struct.pack("<ii", 8, 8), struct.pack("<ii", 100_000, 100_000), 1
        ),
    )
    jpeg = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    yield "JPEG", bytes(jpeg)
    yield (
        "GIF",
        b"GIF89a"
        + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0)
        + b","
        + struct.pack("<HHHHBB", 0, 0, 65_000, 65_000, 0, 2),
    )


@pytest.mark.parametrize(("kind", "encoded"), [pytest.param(*bomb, id=bomb[0]) for bomb in bombs()])
def test_decompression_bombs_are_refused_before_decoding(kind, encoded):
    with pytest.raises(data.BadImageError, match=r"^bomb\.img: .*(pixels|exceeds limit)"):
        data.decode(encoded, name="bomb.img")


def test_the_limit_of_pixels_is_an_argument():
    encoded = encode(Image.fromarray(noise()), "JPEG")
    assert data.decode(encoded, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(data.BadImageError, match="60x40 pixels, more than the 2,399"):
        data.decode(encoded, max_pixels=2399)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_truncated_images_are_bad(kind):
    encoded = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), kind)
    for count in (len(encoded) // 2, len(encoded) - 200, 12):
        with pytest.raises(data.BadImageError, match="short"):
            data.decode(encoded[:count], name="short")


@pytest.mark.parametrize("encoded", [b"", b"no image", b"\xff\xd8\xff\xd9", bytes(100), b"GIF89a"])
def test_other_bytes_are_bad_images(encoded):
    with pytest.raises(data.BadImageError) as raised:
        data.decode(encoded)
    assert raised.value.name is None
    assert "0x" not in str(raised.value)  # addresses in memory help nobody


def test_formats_that_pillow_does_not_read_are_told_from_other_files():
    """A TIFF of floating-point colours is no file of an unknown format."""
    fields = ((256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3))
    fields += ((273, 4, 1, 98), (278, 3, 1, 4), (279, 4, 1, 192), (339, 3, 1, 3))
    entries = b"".join(struct.pack("<HHII", *entry) for entry in sorted(fields))
    encoded = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + bytes(400)
    with pytest.raises(data.BadImageError, match=r"^a\.tif: damaged, or a kind of image that Pillow does not read$"):
        data.decode(encoded, name="a.tif")
    with pytest.raises(data.BadImageError, match=r"^a\.tif: no image of a known format$"):
        data.decode(b"text", name="a.tif")


def test_fuzzed_files_are_images_or_bad_images():
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        encoded = np.frombuffer(encode(Image.fromarray(noise(24, 24)), kind), np.uint8)
        for _ in range(40):
            broken = encoded.copy()
            broken[generator.integers(0, len(broken), 4)] = generator.integers(0, 256, 4)
            try:
                decoded = data.decode(broken.tobytes(), max_pixels=1 << 20)
            except data.BadImageError:
                continue
            assert (decoded.dtype, decoded.ndim, decoded.shape[-1]) == (np.uint8, 3, 3)


def test_the_error_names_file_and_reason_and_survives_another_process():
    error = data.BadImageError("truncated", os.fsdecode(b"caf\xe9/a\nb.png"))
    assert str(error) == r"caf\xe9/a\nb.png: truncated"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason) == (str(error), "truncated")


def test_pipes_devices_and_folders_are_bad_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.png"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "empty.png").write_bytes(b"")
    reasons = {
        "pipe.png": "a pipe",
        "socket.png": "a socket",
        "folder.png": "a folder",
        "broken.png": "No such file",
        "device.png": "a device",
        "empty.png": "empty",
    }
    for name, reason in reasons.items():
        with pytest.raises(data.BadImageError, match=f"{name}: .*{reason}"):
            data.decode_file(tmp_path / name)
    listening.close()


@pytest.mark.skipif(os.getuid() != 0, reason="changes the user, which only root can")
def test_an_unreadable_file_is_a_bad_image():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "secret.png")
        Image.new("RGB", (16, 16)).save(path)
        os.chmod(path, 0)
        os.seteuid(65534)
        try:
            with pytest.raises(data.BadImageError, match=r"secret\.png: Permission denied"):
                data.decode_file(path)
        finally:
            os.seteuid(0)


def test_files_larger_than_any_image_are_not_read(tmp_path):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)  # sparse
    with pytest.raises(data.BadImageError, match=r"huge\.png: 1,073,741,825 bytes"):
        data.decode_file(tmp_path / "huge.png")


# Cases that went wrong once


def test_made_images(made_cases):
    images = made_cases / "images"
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    assert differ(data.decode_file(images / "grey16.png"), ramp / 257) <= 1
    with Image.open(images / "exif6.jpg") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert differ(data.decode_file(images / "exif6.jpg"), expected) == 0
    alpha = data.decode_file(images / "alpha.png")
    np.testing.assert_array_equal(alpha[0, 0], WHITE)
    np.testing.assert_array_equal(alpha[16, 15], BLACK)
