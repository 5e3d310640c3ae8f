"""Panel apps a person clicks."""
