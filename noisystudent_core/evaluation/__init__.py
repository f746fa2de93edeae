"""What a model is worth: evaluators yield (metric, value), reports put them beside one another."""
