"""The zoo's own error."""


class ZooError(ValueError):
    """What a zoo's name, folder, file or server can't give; the message names it and says what is wrong."""
