"""From the bytes of an upload to the input of a network."""
