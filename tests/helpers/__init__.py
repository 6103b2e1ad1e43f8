"""What tests share: hosts, links, sessions, sweeps and made-up runs."""
