"""Pillow: an image made, scaled and written."""

import io

from PIL import Image


def handle(value: str) -> str:
    image = Image.new("RGB", (64, 64), (int(value) % 256, 0, 0)).resize((16, 16))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return f"{value} {len(sink.getvalue())} {image.getpixel((3, 3))}"
