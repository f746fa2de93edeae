"""From sources of images to batches on the device."""
