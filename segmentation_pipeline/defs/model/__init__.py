"""The assets and checks of the stage model."""
