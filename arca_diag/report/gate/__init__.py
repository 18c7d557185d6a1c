"""A gate's outcome for its readers: people, and the systems that review is done in."""
