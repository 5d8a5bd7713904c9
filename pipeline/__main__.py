"""`python -m pipeline`, which does the same as the command `limelight`."""

from pipeline.cli.main import main

main()
