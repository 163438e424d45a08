"""Training: one script per stage, and what the stages share."""
