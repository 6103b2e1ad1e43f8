"""What would be measured: latency and throughput of splits, placements and links, predicted."""
