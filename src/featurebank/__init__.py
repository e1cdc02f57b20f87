"""Put every frozen backbone through the gauntlet once; ask the cached features anything, for ever."""

__all__ = ["__version__"]

__version__ = "0.2.0"
