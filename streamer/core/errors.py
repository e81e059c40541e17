"""All errors of the program, by what the caller does about them. Messages never hold credentials."""


class StreamerError(Exception):
    """Base of all below."""


class ConfigError(StreamerError):
    """The user must change something (config, file, checkpoint, device). The program exits with 2, for good."""


class SourceLost(StreamerError):
    """A source failed or went silent. Report it, wait, open it again."""


class SourceRefused(SourceLost):
    """A source turned user and password down. Try again, but rarely: many cameras lock out who tries often."""


class SourceEnded(StreamerError):
    """A source delivered everything it had. Finish."""


class WireError(StreamerError):
    """A message was not what the protocol says. Count it and drop it."""


class PipelineError(StreamerError):
    """The model failed on a batch. Its jobs end with the outcome `error`."""


class SinkError(StreamerError):
    """A sink could not deliver. Keep the events and try again, after `wait_s` seconds where it is given."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
