"""The one exception users see: a sentence that names the file or key and says how to mend it."""


class DavssError(Exception):
    """Bad input or a missing piece, told in the user's terms.

    The command line and the pipeline stages print the message as one line and exit with status 2;
    every other exception is a defect of davss and keeps its stack trace.
    """
