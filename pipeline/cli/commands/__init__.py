"""The commands of `limelight`, one file each."""
