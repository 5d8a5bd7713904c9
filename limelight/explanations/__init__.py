"""Maps of what speaks for a class, boxes and overlays out of them."""
