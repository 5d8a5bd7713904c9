"""Run the statements in the first argument, in an environment without site packages."""

import sys

if __name__ == "__main__":
    exec(sys.argv[1])  # the tests' own statements
