"""Networks behind the maps of a backbone, whatever they make of them: how they are built, trained and looked at."""
