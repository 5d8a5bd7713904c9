"""The commands that `limelight` has, a file each."""
