"""The errors that cross every boundary: a user's mistake, and a run the user stopped."""


class PointDefectsError(ValueError):
    """Raised for bad input; the command line prints it and exits with code 2."""


class Stopped(Exception):
    """Raised out of a long task when its ``should_stop`` callable said yes."""
