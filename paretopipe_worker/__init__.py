"""What runs on the devices: partitioning, stages, transports, shaping, records.

Importing the package imports nothing large: the analysis reads records with it on machines without
torch.
"""

__version__ = "0.1.0"
