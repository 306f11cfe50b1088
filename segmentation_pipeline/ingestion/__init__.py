"""From the files of a source to cleaned transactions."""
