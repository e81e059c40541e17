"""All errors of the program, named after what the caller does next. They are redacted where they leave the process."""

EXIT_CONFIG = 2
"""Exit code of a ConfigError, for the command and for every process of an agent."""


class StreamerError(Exception):
    """Base class."""


class ConfigError(StreamerError):
    """The user must change the config, a file, the checkpoint or the device.

    At the first start the program exits with 2 and is not restarted. A process that was ready before is restarted.
    """


class SourceLost(StreamerError):
    """A source failed or sent nothing. Publish `stream.down`, wait, open it again."""


class SourceRefused(SourceLost):
    """A source rejected user and password. Retry rarely: many cameras lock an account after a few attempts."""


class SourceEnded(StreamerError):
    """A source delivered its last frame. Finish. Its text, if any, says what was missing."""


class SourceIncomplete(SourceEnded):
    """A recording ended earlier than it states. Finish; with `strict: true` the agent fails at its end."""


class AddressError(StreamerError):
    """A host has no address, or none that may be used. Try again later: names can get other addresses."""


class FrameError(StreamerError):
    """A frame cannot be converted. Count it and take the next one."""


class ProcessBroken(StreamerError):
    """This process cannot continue. It ends, and the supervisor starts it again."""


class OutputError(StreamerError):
    """The encoder of an output cannot be used. Report the output as down and retry."""


class NoReply(StreamerError):
    """A process has not confirmed a request in time. Report it to the sender, who may try again."""


class WireError(StreamerError):
    """A message violates its protocol. Count and drop it."""


class PipelineError(StreamerError):
    """The model failed on a batch. Its jobs end with the outcome `error`."""


class LedgerError(StreamerError):
    """The disk of the ledger fails or is full, or the file is damaged.

    The process ends and is started again, less and less often.
    """


class SnapshotError(StreamerError):
    """A snapshot is gone, or is not the one that its event names. Go on without a picture."""


class SocketLost(StreamerError):
    """The process cannot be reached any more. It ends and is started again."""


class SinkError(StreamerError):
    """A sink could not deliver. Keep the events and retry, after `wait_s` seconds if set.

    `in_doubt`: the receiver may have the event all the same, because only its answer is missing.
    """

    def __init__(self, message: str, wait_s: float | None = None, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.wait_s, self.in_doubt = wait_s, in_doubt


class SinkRefused(StreamerError):
    """A receiver will never accept this event. Keep it as a dead letter and go on with the next one."""
