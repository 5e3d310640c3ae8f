"""Scores, their calibration, the ranking and its reasons."""
