"""Filtering and balancing as a stage; the work itself is `pseudo_labels.select`."""

from noisystudent_core.pseudo_labels.select import select_images
from noisystudent_core.storage.stage import stage

select = stage(select_images)
