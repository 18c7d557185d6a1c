"""Disk -> checked objects. A run folder is untrusted: nothing it left is unpickled or run."""
