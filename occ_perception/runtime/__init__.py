"""Running a network on a stream: history, preprocessing, weights."""
