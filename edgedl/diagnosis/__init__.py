"""Why a compressed model answers worse than its float model: measured, named, and what mends it."""
