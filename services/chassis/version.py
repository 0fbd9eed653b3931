"""The version of AI Shop that this is: of the package, the REST document and the command."""

VERSION = "0.2.0"
