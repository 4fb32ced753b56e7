"""What networks respond to: token classes, profiles over layers, interpretations."""
