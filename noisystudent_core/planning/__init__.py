"""What a run will take before it is started: images, parts, storage, memory, device-hours and hours, stage by stage."""
