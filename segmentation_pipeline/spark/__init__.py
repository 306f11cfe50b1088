"""The part of the pipeline that reads lines, on Spark."""
