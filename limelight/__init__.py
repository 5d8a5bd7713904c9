"""Image classifiers that show what they looked at: what training, serving and clients share."""
