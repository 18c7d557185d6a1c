"""Whether the judge is right, on planted truth. Run by `make bench-coverage bench-detection`."""
