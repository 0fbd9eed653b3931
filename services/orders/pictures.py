"""The sample pictures: a sky, a sun, hills and a title, drawn the same way each time they are asked for."""

import io
import math
import random

from PIL import Image, ImageDraw, ImageFont, ImageOps

_WIDTH, _HEIGHT = 960, 640
_HORIZON = 380
_RIDGES = 4
_INK = (255, 255, 255)


def draw(title: str, number: int) -> bytes:
    """A PNG."""
    # Not a secret: the same picture whenever it is drawn.
    chance = random.Random(f"{number}:{title}")  # noqa: S311
    hue = chance.random()
    picture = _sky(hue)
    pen = ImageDraw.Draw(picture)
    _sun(pen, chance, hue)
    for ridge in range(_RIDGES):
        _hills(pen, chance, hue, ridge)
    pen.text((48, _HEIGHT - 96), title, fill=_INK, font=ImageFont.load_default(size=46))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _sky(hue: float) -> Image.Image:
    gradient = Image.linear_gradient("L").resize((_WIDTH, _HEIGHT))
    return ImageOps.colorize(gradient, _colour(hue, 0.45, 0.35), _colour(hue + 0.12, 0.35, 1.0))


def _sun(pen: ImageDraw.ImageDraw, chance: random.Random, hue: float) -> None:
    x, y, radius = chance.randint(200, 760), chance.randint(120, 260), chance.randint(50, 90)
    for ring in range(3, -1, -1):
        reach = radius + ring * 22
        colour = _colour(hue + 0.12, 0.25 - 0.05 * (3 - ring), 0.75 + 0.08 * (3 - ring))
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)


def _hills(pen: ImageDraw.ImageDraw, chance: random.Random, hue: float, ridge: int) -> None:
    """One ridge; those in front are lower and darker."""
    base = _HORIZON + ridge * 55
    waves = [(chance.uniform(0.003, 0.012), chance.uniform(0, 6.3), chance.randint(12, 38)) for _ in range(3)]
    outline = [
        (x, base + sum(height * math.sin(x * pace + phase) for pace, phase, height in waves))
        for x in range(0, _WIDTH + 8, 8)
    ]
    colour = _colour(hue + 0.55, 0.5, 0.55 - 0.12 * ridge)
    pen.polygon([*outline, (_WIDTH, _HEIGHT), (0, _HEIGHT)], fill=colour)


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    pixel = Image.new("HSV", (1, 1), (int(hue % 1 * 255), int(saturation * 255), int(min(value, 1) * 255)))
    red, green, blue = pixel.convert("RGB").tobytes()
    return red, green, blue
