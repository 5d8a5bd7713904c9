"""Where two constants of the `ink` image rule come from, measured on MNIST's training images.

`python -m bench.ink_layout` prints the digits' centre of mass, and for each threshold how far
digits that were enlarged ten times, as a person would draw them, come back from themselves.
MNIST has to be in the cache: `limelight data fetch mnist`.
"""

import numpy as np
from PIL import Image

from limelight.imaging import fitting
from limelight.imaging import preprocessing as images
from pipeline.data.registry import load_dataset

SAMPLES = 1000
ENLARGED = 280
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


def main() -> None:
    """Measure and print."""
    dataset = load_dataset("mnist")
    digits = dataset.train.images[..., 0]
    mass = digits.sum((1, 2), dtype=np.float64)
    places = np.arange(digits.shape[1]) + 0.5
    for name, axis in (("left", 1), ("upper", 2)):
        centres = digits.sum(axis, dtype=np.float64) @ places / mass
        print(f"centre of mass from the {name} edge: {centres.mean():.2f} ± {centres.std():.2f}")

    chosen = np.random.default_rng(0).choice(len(digits), SAMPLES, replace=False)
    enlarged = [
        Image.fromarray(digits[at]).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
        for at in chosen
    ]
    kept = fitting._INK_THRESHOLD
    for threshold in THRESHOLDS:
        fitting._INK_THRESHOLD = threshold
        errors = [
            np.abs(images.prepare(image, dataset.image)[0][..., 0] - digits[at].astype(float))
            for image, at in zip(enlarged, chosen, strict=True)
        ]
        used = "  in use" if threshold == kept else ""
        print(f"threshold {threshold:.2f}: {np.mean(errors):.2f} grey levels off{used}")


if __name__ == "__main__":
    main()
