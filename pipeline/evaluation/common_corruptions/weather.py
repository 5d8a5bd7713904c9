"""Weather: snow, frost, fog and bright light. Levels are float32 from 0 to 1, (N, H, W, C)."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.evaluation.common_corruptions.blur import moved
from pipeline.evaluation.common_corruptions.resampling import Floats, zoomed

# Luma, ITU-R BT.601.
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
# Colours of ice: blue, white and grey, of which each picture has a mixture; and how much of each.
_ICE = np.array([[0.30, 0.58, 0.65], [0.78, 0.79, 0.83], [0.40, 0.45, 0.49]])
_SHARES = (0.2, 0.5, 0.3)


def snow(
    levels_nhwc: Floats,
    rng: Generator,
    mean: float,
    deviation: float,
    size: float,
    least: float,
    radius: float,
    streak: float,
    share: float,
) -> Floats:
    """Brighten the image, and let flakes fall in front of it.

    Args:
        levels_nhwc: the images.
        rng: draws the flakes.
        mean: of the normal noise from which the flakes are made.
        deviation: of that noise.
        size: factor by which it is enlarged.
        least: value below which there is no flake.
        radius: of the motion blur of the flakes, in pixels.
        streak: deviation of that blur, in pixels.
        share: of the image itself; the rest is its whitened copy.

    """
    flakes = rng.normal(mean, deviation, (*levels_nhwc.shape[:3], 1)).astype(np.float32)
    flakes = zoomed(flakes, size)
    flakes = np.where(flakes < least, 0, flakes.clip(0, 1))
    flakes = moved(flakes, rng.uniform(-135, -45, len(flakes)), radius, streak)
    whitened = np.maximum(levels_nhwc, _grey(levels_nhwc) * 1.5 + 0.5)
    brightened = share * levels_nhwc + (1 - share) * whitened
    fallen: Floats = (brightened + flakes + flakes[:, ::-1, ::-1]).astype(np.float32)
    return fallen


def _grey(levels_nhwc: Floats) -> Floats:
    return levels_nhwc if levels_nhwc.shape[3] == 1 else (levels_nhwc @ _GREY)[..., None]


def frost(
    levels_nhwc: Floats, rng: Generator, share: float, ice: float, resolution: float
) -> Floats:
    """Add ice to a share of the image. The published data sets have photographs of ice."""
    drawn = draw_ice(rng, levels_nhwc.shape, resolution)
    return np.float32(share) * levels_nhwc + np.float32(ice) * drawn


def draw_ice(rng: Generator, shape: tuple[int, ...], resolution: float) -> Floats:
    """Draw pictures like crystals of ice, float32 (N, H, W, C).

    They have the colours, the contrast and the sharpness of crops from photographs of frosted
    panes, reduced to `resolution` without smoothing: noise that is rough in some places and smooth
    in others, with the more of the high frequencies the more the photograph was reduced.
    """
    count, height, width, channels = shape
    slope = 0.95 + 0.35 * np.log(resolution)
    rough = np.exp(_noise_of(rng, (count, height, width), 1.2) / 2)
    texture = rough * _noise_of(rng, (count, height, width), slope)
    texture -= texture.mean((1, 2), keepdims=True)
    texture /= texture.std((1, 2), keepdims=True) + 1e-6
    contrast = rng.uniform(0.04, 0.14, (count, 1, 1))
    colour = rng.dirichlet(_SHARES, count) @ _ICE
    ice = colour[:, None, None] + (contrast * texture)[..., None]
    drawn: Floats = (ice @ _GREY[:, None] if channels == 1 else ice).astype(np.float32)
    return drawn


def _noise_of(rng: Generator, shape: tuple[int, int, int], slope: float) -> NDArray[np.float64]:
    """Draw noise of amplitude 1 / frequency ** slope, (N, H, W), with the standard deviation 1.

    It is cut from pictures twice as large: noise of this kind repeats itself at opposite edges.
    """
    count, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.rfftfreq(2 * width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(count, 2 * height, 2 * width)))
    noise = np.fft.irfft2(spectrum / frequency**slope, (2 * height, 2 * width))
    normalised: NDArray[np.float64] = noise[:, :height, :width] / (noise.std() + 1e-6)
    return normalised


def fog(levels_nhwc: Floats, rng: Generator, amount: float, decay: float) -> Floats:
    """Add clouds, and darken the sum so that the brightest level stays where it was."""
    _, height, width, _ = levels_nhwc.shape
    clouds = _clouds(rng, len(levels_nhwc), max(height, width), decay)[:, :height, :width, None]
    brightest = levels_nhwc.max((1, 2, 3), keepdims=True)
    foggy = (levels_nhwc + amount * clouds) * (brightest / (brightest + amount))
    result: Floats = foggy.astype(np.float32)
    return result


def _clouds(rng: Generator, count: int, side: int, decay: float) -> NDArray[np.float64]:
    """Draw plasma fractals from 0 to 1, (N, S, S) with S a power of two of at least `side`.

    Diamond-square algorithm (Fournier, Fussell and Carpenter, 1982) on a torus. The deviation
    falls by `decay` squared from each scale to the next.
    """
    size = 1 << max(1, (side - 1).bit_length())
    heights = np.zeros((count, size, size))
    scale, step = 100.0, size
    while step > 1:
        half, reach = step // 2, scale**2
        corners = heights[:, ::step, ::step]
        sides = corners + np.roll(corners, -1, 1)
        middles = (sides + np.roll(sides, -1, 2)) / 4
        middles += rng.uniform(-reach, reach, middles.shape)
        heights[:, half::step, half::step] = middles
        for across, along in ((1, 2), (2, 1)):
            near = middles + np.roll(middles, 1, across) + corners + np.roll(corners, -1, along)
            edges = near / 4 + rng.uniform(-reach, reach, near.shape)
            if across == 1:
                heights[:, ::step, half::step] = edges
            else:
                heights[:, half::step, ::step] = edges
        step, scale = half, scale / decay
    heights -= heights.min((1, 2), keepdims=True)
    clouds: NDArray[np.float64] = heights / heights.max((1, 2), keepdims=True)
    return clouds


def brightness(levels_nhwc: Floats, rng: Generator, added: float) -> Floats:
    """Raise the value in HSV, the largest of a pixel's levels; hue and saturation stay."""
    value = levels_nhwc.max(3, keepdims=True)
    raised = np.minimum(1, value + np.float32(added))
    ratio = np.divide(raised, value, out=np.zeros_like(value), where=value > 0)
    brightened: Floats = np.where(value > 0, levels_nhwc * ratio, raised)
    return brightened
