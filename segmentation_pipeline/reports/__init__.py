"""What people see of a release: how numbers are written, the charts, and the report."""
