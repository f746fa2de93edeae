"""How a stage is run: retries, engine, progress and tracking; one file a stage, one core call each."""
