"""`python -m pipeline`, which torchrun starts too."""

from pipeline.cli import main

main()
