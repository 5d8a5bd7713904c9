"""Augmentation: random changes of training images, by the batch, on the device."""
