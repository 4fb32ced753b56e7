"""Evidence that networks are real: stability, resampling, matching, model order, dual regression."""
