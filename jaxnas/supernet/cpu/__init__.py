"""What is written for processors only: a layer worked on by blocks of channels that fit the cache."""
