"""Everything this package raises on purpose.

NoisyStudentError
├── ConfigurationError (ValueError)   a setting is wrong, or two settings contradict each other
├── DataError (ValueError)            the images, labels or artifacts are wrong
│   ├── SourceError                   a source is missing, empty or unreadable
│   ├── SchemaError                   a table lacks a column, or has it with another type
│   ├── LabelError                    a label is no class, or a class has no image
│   ├── ImageError                    the bytes are no image we can decode (one image; `reason` says why)
│   ├── BadImagesError                more images are missing than `max_bad_fraction` or `max_missing` allows
│   ├── CorruptArtifactError          a part is missing or changed since its manifest was written
│   └── ManifestVersionError          the manifest was written by a newer version
├── RootError (OSError)               the root cannot be reached or written
│   ├── AccessError                   a bucket refuses, or is not there: rights, credentials, address
│   └── UnavailableError              a bucket went on failing longer than we wait
├── NonFiniteLossError (ArithmeticError)   training diverged
├── DeviceMemoryError (RuntimeError)       a step does not fit into memory
├── InterruptedFitError (RuntimeError)     a fit was asked to stop and saved its state
├── PartsFailedError (RuntimeError)   some parts of a group failed, and are worth another try
└── WorkerDiedError (RuntimeError)    a child process died or fell silent

The first words of a message give the value, then the limit, then the remedy.
"""

from errno import EACCES, EIO


class NoisyStudentError(Exception):
    """Base of every error raised on purpose; `retryable` tells the orchestrator whether trying again can help."""

    retryable = False


class ConfigurationError(NoisyStudentError, ValueError):
    """A setting is wrong, or two settings contradict each other."""


class DataError(NoisyStudentError, ValueError):
    """The images, labels or artifacts are wrong."""


class SourceError(DataError):
    """A source is missing, empty or unreadable."""


class SchemaError(DataError):
    """A table lacks a column, or has it with another type."""


class LabelError(DataError):
    """A label is no class of the data set, or a class has no image."""


class ImageError(DataError):
    """The bytes are no image we can decode; `reason` is the word counted in the manifest."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadImagesError(DataError):
    """More images are undecodable or missing than `max_bad_fraction` or `max_missing` allows."""


class CorruptArtifactError(DataError):
    """A part is missing or changed since its manifest was written."""


class ManifestVersionError(DataError):
    """The manifest was written by a newer version of this package."""


class RootError(NoisyStudentError, OSError):
    """The root cannot be reached or written; it could when the run began, so trying again can help."""

    retryable = True


class AccessError(RootError):
    """A bucket refuses, or is not there, for want of rights, credentials or the right address."""

    retryable = False
    errno = EACCES


class UnavailableError(RootError):
    """A bucket, of a root or a source, went on failing longer than we wait."""

    errno = EIO


class NonFiniteLossError(NoisyStudentError, ArithmeticError):
    """The training loss is no longer a finite number."""


class DeviceMemoryError(NoisyStudentError, RuntimeError):
    """A step does not fit into the device's memory; it would not the next time either."""


class InterruptedFitError(NoisyStudentError, RuntimeError):
    """A fit was asked to stop and saved its state, from which trying again goes on."""

    retryable = True


class PartsFailedError(NoisyStudentError, RuntimeError):
    """Some parts of a group failed; those that go on failing are set aside."""

    retryable = True


class WorkerDiedError(NoisyStudentError, RuntimeError):
    """A child process died or fell silent before its stage was finished."""

    retryable = True


def by_name(name: str, message: str) -> Exception:
    """Rebuild an error that crossed a process boundary as (class name, message); unknown names become RuntimeError."""
    error = _BY_NAME.get(name)
    if error is None:
        return RuntimeError(f"{name}: {message}")
    return error(message, "undecodable") if error is ImageError else error(message)


def _tree(error: type[NoisyStudentError]) -> list[type[NoisyStudentError]]:
    return [error, *(leaf for child in error.__subclasses__() for leaf in _tree(child))]


_BY_NAME = {error.__name__: error for error in _tree(NoisyStudentError)}
