"""What a search runs on: devices and hosts, checkpoints, the compilation cache."""
