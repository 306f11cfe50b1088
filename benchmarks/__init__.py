"""Programs that measure the pipeline, and write pages of the documentation."""
