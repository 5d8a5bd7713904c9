"""Headers of image files, by format: size and cost of decoding, read before the decoder."""
