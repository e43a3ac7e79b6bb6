"""Pictures of every mode that files have: their pixels are what a viewer shows, or the client is told why not."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.images import open_image
from serving import codecs
from serving.errors import BadRequest
from serving.request import Request

RAMP = np.linspace(0, 1, 48).reshape(6, 8)  # from black to white


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def close(found: Any, wanted: Any, by: int = 1) -> None:
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.asarray(wanted).astype(int)).max() <= by


def both(body: bytes) -> tuple[np.ndarray, np.ndarray]:
    """What codecs make of it, and what the handlers of pictures see."""
    return codecs.decode(body, "image/x"), np.asarray(open_image(Request(body, "image/x")))


def sixteen(dtype: str = "<u2") -> np.ndarray:
    return (RAMP * 65535).round().astype(dtype)


def tiff16(order: str, photometric: int) -> bytes:
    """A TIFF of one strip, by hand: Pillow writes but one kind of these."""
    values = sixteen(f"{order}u2")
    data = values.tobytes()
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = [(256, 4, 8), (257, 4, 6), (258, 3, 16), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, 6), (279, 4, len(data))]
    short = np.dtype(f"{order}u2")
    long = np.dtype(f"{order}u4")

    def entry(tag: int, kind: int, value: int) -> bytes:
        held = np.array([value], long if kind == 4 else short).tobytes()
        return np.array([tag, kind], short).tobytes() + np.array([1], long).tobytes() + held.ljust(4, b"\0")

    table = np.array([len(entries)], short).tobytes() + b"".join(entry(*one) for one in entries) + b"\0\0\0\0"
    return mark + np.array([8 + len(data)], long).tobytes() + data + table


GREY16 = {
    "png": lambda: saved(Image.fromarray(sixteen()), "PNG"),
    "tiff": lambda: saved(Image.fromarray(sixteen()), "TIFF"),
    "tiff of Motorola": lambda: tiff16(">", 1),
    "pgm": lambda: b"P5 8 6 65535\n" + sixteen(">u2").tobytes(),
    "jpeg 2000": lambda: saved(Image.fromarray(sixteen()), "JPEG2000"),
}


@pytest.mark.parametrize("make", GREY16.values(), ids=GREY16)
def test_grey_of_16_bits_is_grey_of_8(make: Any) -> None:
    array, image = both(make())
    close(array, RAMP * 255)
    close(image, np.repeat((RAMP * 255)[..., None], 3, 2))


def test_a_negative_of_16_bits_is_turned() -> None:
    array, _ = both(tiff16("<", 0))
    close(array, 255 - RAMP * 255)
    with pytest.raises(BadRequest):  # Pillow reads no negatives of this byte order
        both(tiff16(">", 0))


def png16(channels: int, colour: int) -> bytes:
    import struct
    import zlib

    values = np.repeat(sixteen(">u2")[..., None], channels, 2)
    if channels in (2, 4):
        values[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 6, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_a_png_of_16_bits_of_every_colour_type(channels: int, colour: int) -> None:
    array, image = both(png16(channels, colour))
    wanted = RAMP * 255 if array.ndim == 2 else np.repeat((RAMP * 255)[..., None], 3, 2)
    close(array, wanted)
    close(image, np.repeat((RAMP * 255)[..., None], 3, 2))


FLOATS = {
    "float tiff of 0 to 1": lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "float tiff of 0 to 255": lambda: saved(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"),
    "tiff of 32 bits": lambda: saved(Image.fromarray((RAMP * 1e6).astype(np.int32)), "TIFF"),
    "portable float map": lambda: b"Pf\n8 6\n-1.0\n" + RAMP.astype("<f4").tobytes(),
    "lab": lambda: saved(Image.new("LAB", (8, 6)), "TIFF"),
}


@pytest.mark.parametrize("make", FLOATS.values(), ids=FLOATS)
def test_numbers_without_a_known_white_are_refused_with_the_reason(make: Any) -> None:
    body = make()
    for decode in (lambda: codecs.decode(body, "image/tiff"), lambda: open_image(Request(body, "image/tiff"))):
        with pytest.raises(BadRequest, match=r"white|npy"):
            decode()


def colours() -> Image.Image:
    array = np.zeros((6, 8, 3), np.uint8)
    array[:, :2], array[:, 2:4], array[:, 4:6], array[:, 6:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    return Image.fromarray(array)


def with_alpha(opacity: int) -> Image.Image:
    image = colours().convert("RGBA")
    image.putalpha(opacity)
    return image


KINDS = {
    "rgb": lambda: saved(colours(), "PNG"),
    "palette": lambda: saved(colours().quantize(4), "PNG"),
    "palette of a gif": lambda: saved(colours().quantize(4), "GIF"),
    "palette with transparency": lambda: saved(colours().quantize(4), "PNG", transparency=0),
    "alpha": lambda: saved(with_alpha(255), "PNG"),
    "alpha is ignored": lambda: saved(with_alpha(7), "PNG"),
    "tiff": lambda: saved(colours(), "TIFF"),
    "bmp": lambda: saved(colours(), "BMP"),
    "cmyk tiff": lambda: saved(colours().convert("CMYK"), "TIFF"),
    "webp": lambda: saved(colours(), "WEBP", lossless=True),
    "first of many": lambda: saved(colours(), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 6))]),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_colours_are_those_of_the_picture(make: Any) -> None:
    for found in both(make()):
        close(found, np.asarray(colours()), by=2)


def test_black_and_white_is_black_and_white() -> None:
    image = Image.fromarray((RAMP > 0.5).astype(np.uint8) * 255).convert("1")
    for format in ("PNG", "TIFF", "PPM"):
        for found in both(saved(image, format)):
            close(found, np.repeat(((RAMP > 0.5) * 255)[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_picture_stands_upright(orientation: int, format: str) -> None:
    """Stored turned in each way that EXIF knows, it is the same picture."""
    if format == "WEBP" and orientation == 1:
        return
    ways = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes an orientation, of Image.Transpose
    upright = Image.fromarray((RAMP * 255).astype(np.uint8)).convert("RGB").resize((32, 24))
    undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undone[orientation])) if orientation in ways else upright
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 100} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    for found in both(saved(stored, format, exif=exif, **options)):
        close(found, np.asarray(upright), by=12 if format == "JPEG" else 1)


def test_a_grey_picture_of_16_bits_stands_upright_too() -> None:
    exif = Image.Exif()
    exif[274] = 3
    body = saved(Image.fromarray(sixteen()).transpose(Image.Transpose.ROTATE_180), "PNG", exif=exif)
    close(both(body)[0], RAMP * 255)


def chunked(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def noisy_png() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    body = saved(Image.fromarray(pixels), "PNG")
    return body[:33] + chunked(b"teXt", b"a note") + body[33:]


def refused(body: bytes) -> bool:
    for read in (lambda: codecs.decode(body, "image/png"), lambda: open_image(Request(body, "image/png"))):
        try:
            read()
        except BadRequest:
            continue
        return False
    return True


def test_a_png_with_any_byte_changed_is_refused() -> None:
    body = noisy_png()
    both(body)
    changed = [body[:at] + bytes([body[at] ^ 0x20]) + body[at + 1 :] for at in range(len(body))]
    assert [at for at, one in enumerate(changed) if not refused(one)] == []


def test_a_png_cut_anywhere_is_refused() -> None:
    body = noisy_png()
    assert [size for size in range(len(body)) if not refused(body[:size])] == []


def test_junk_behind_a_picture_is_harmless() -> None:
    for format in ("PNG", "JPEG", "GIF"):
        body = saved(colours(), format)
        assert np.array_equal(both(body)[0], both(body + b"junk")[0])
