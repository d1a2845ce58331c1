"""Time, memory and accuracy, measured honestly."""
