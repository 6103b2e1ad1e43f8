"""The host: what it is, how it fares, and the processes that outlive a command on it."""
