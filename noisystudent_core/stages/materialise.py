"""Selected images with their bytes as a stage; the work itself is `pseudo_labels.materialise`."""

from noisystudent_core.pseudo_labels.materialise import materialise_images
from noisystudent_core.storage.stage import stage

materialise = stage(materialise_images)
