"""A convolution by hand as lines of text."""

from collections.abc import Iterator

from pipeline.lessons.by_hand import ByHand
from pipeline.lessons.convolution import Array, padded


def lines_of(found: ByHand, name: str) -> Iterator[str]:
    """Yield what a reader follows with pencil and paper; `name` is that of the kernel."""
    yield from _sizes(found, name)
    yield ""
    yield from _activation(found)
    yield ""
    yield from _comparisons(found)


def _sizes(found: ByHand, name: str) -> Iterator[str]:
    channels, height, width = found.image_chw.shape
    _, kernel_height, kernel_width = found.kernel_chw.shape
    noun = "channel" if channels == 1 else "channels"
    yield f"image: {height} x {width} pixels, {channels} {noun}"
    yield f"kernel: {name}, {kernel_height} x {kernel_width} for each channel"
    rows, columns = found.output.shape
    for side, size, kernel, result in (
        ("rows", height, kernel_height, rows),
        ("columns", width, kernel_width, columns),
    ):
        yield (
            f"{side} of the output: ({size} + 2 * {found.padding} - {kernel}) // {found.stride} "
            f"+ 1 = {result}"
        )


def _activation(found: ByHand) -> Iterator[str]:
    rows, columns = found.under
    pad = found.padding
    yield (
        f"activation at row {found.row}, column {found.column}: over rows {rows.start - pad} to "
        f"{rows.stop - 1 - pad} and columns {columns.start - pad} to {columns.stop - 1 - pad} of "
        "the image"
    )
    under = padded(found.image_chw, pad)[:, rows, columns]
    for pixels, kernel, channel_map in zip(
        under, found.kernel_chw, found.channels_chw, strict=True
    ):
        total = f"{channel_map[found.row, found.column]:g}"
        left, right = _block(pixels), _block(kernel)
        for number, (values, weights) in enumerate(zip(left, right, strict=True)):
            middle = number == len(left) // 2
            yield f"  {values}  {'*' if middle else ' '}  {weights}" + (
                f"  = {total}" if middle else ""
            )
        yield ""
    if len(found.kernel_chw) > 1:
        parts = " + ".join(f"{it[found.row, found.column]:g}" for it in found.channels_chw)
        yield f"sum of the channels: {parts} = {found.output[found.row, found.column]:g}"
    largest, smallest = found.output.max(), found.output.min()
    yield f"all activations: from {smallest:g} to {largest:g}"


def _comparisons(found: ByHand) -> Iterator[str]:
    matrix = found.matrix()
    _, height, width = found.part().shape
    whole = found.part().shape == found.image_chw.shape
    what = "the image" if whole else f"the {height} x {width} pixels around it"
    # Counted from the kernel's side: a weight may be zero itself.
    yield (
        f"as a matrix over {what}: {matrix.shape[0]:,} x {matrix.shape[1]:,}, whose rows share "
        f"{found.kernel_chw.size} weights; {(matrix == 0).mean():.1%} of it is zero"
    )
    yield f"matrix product: differs by {found.matrix_difference():.1g}"
    yield f"torch's conv2d: differs by {found.conv2d_difference():.1g}"


def _block(values: Array) -> list[str]:
    """Write a matrix with columns of equal width."""
    texts = [[f"{value:g}" for value in row] for row in values]
    width = max(len(text) for row in texts for text in row)
    return [" ".join(text.rjust(width) for text in row) for row in texts]
