"""The zoo's own error."""


class ZooError(ValueError):
    """A problem with a name, folder, file or server of the zoo; the message names it and says what is wrong."""
