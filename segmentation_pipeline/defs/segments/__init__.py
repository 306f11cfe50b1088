"""The assets and checks of the stage segments."""
