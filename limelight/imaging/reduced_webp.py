"""Decoder of still WebP files at a reduced size, by the copy of libwebp that Pillow has loaded.

Pillow decodes WebP only as an animation, whose canvases and copies take 20 bytes per pixel, and it
cannot reduce the size while it decodes. libwebp's own function needs a fifth of that memory.
"""

import ctypes
from functools import cache

from PIL import Image

# Version of libwebp's interface; the library accepts every one with the same upper byte.
_ABI_VERSION = 0x0200
_MODE_RGBA = 1


class _Features(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("has_alpha", ctypes.c_int),
        ("has_animation", ctypes.c_int),
        ("format", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Rgba(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("stride", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


class _Planes(ctypes.Union):
    # The other member of the union describes four planes: 4 pointers, 4 strides and 4 sizes.
    _fields_ = (("rgba", _Rgba), ("yuva", ctypes.c_byte * 80))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("colorspace", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("is_external_memory", ctypes.c_int),
        ("planes", _Planes),
        ("pad", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("bypass_filtering", ctypes.c_int),
        ("no_fancy_upsampling", ctypes.c_int),
        ("use_cropping", ctypes.c_int),
        ("crop", ctypes.c_int * 4),
        ("use_scaling", ctypes.c_int),
        ("scaled_width", ctypes.c_int),
        ("scaled_height", ctypes.c_int),
        ("use_threads", ctypes.c_int),
        ("dithering_strength", ctypes.c_int),
        ("flip", ctypes.c_int),
        ("alpha_dithering_strength", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Configuration(ctypes.Structure):
    """`WebPDecoderConfig` of libwebp's decode.h."""

    _fields_ = (("input", _Features), ("output", _Buffer), ("options", _Options))


@cache
def _library() -> ctypes.CDLL | None:
    """Return libwebp, which Pillow's own module links to; None if it is not a shared library."""
    try:
        from PIL import _webp

        library = ctypes.CDLL(_webp.__file__)
        library.WebPInitDecoderConfigInternal.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.WebPDecode.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    except (ImportError, OSError, AttributeError):
        return None
    return library if ctypes.sizeof(ctypes.c_void_p) == 8 else None


def is_available() -> bool:
    """Return whether `decode` can be used on this platform."""
    return _library() is not None


def decode(body: bytes, size: tuple[int, int], *, has_alpha: bool, scale: int) -> Image.Image:
    """Decode a still WebP of `size` (width, height), reduced by `scale`: mode RGBA, or RGBX.

    Raises:
        ValueError: the file is damaged, or has another size.
        MemoryError: libwebp cannot allocate memory.
    """
    library = _library()
    if library is None:
        raise ValueError("libwebp is not a shared library here")
    width, height = -(-size[0] // scale), -(-size[1] // scale)
    pixels = bytearray(4 * width * height)
    configuration = _Configuration()
    if not library.WebPInitDecoderConfigInternal(ctypes.byref(configuration), _ABI_VERSION):
        raise ValueError("this version of libwebp has another interface")
    output, options = configuration.output, configuration.options
    output.colorspace, output.is_external_memory = _MODE_RGBA, 1
    rgba = output.planes.rgba
    rgba.pixels = ctypes.addressof(ctypes.c_byte.from_buffer(pixels))
    rgba.stride, rgba.size = 4 * width, len(pixels)
    if scale > 1:
        options.use_scaling, options.scaled_width, options.scaled_height = 1, width, height
    # ctypes releases the interpreter lock during the call.
    status = library.WebPDecode(body, len(body), ctypes.byref(configuration))
    if status == 1:
        raise MemoryError
    if status != 0:
        raise ValueError(f"libwebp's status is {status}")
    mode = "RGBA" if has_alpha else "RGBX"
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
