"""The real consumer with the model and the disk that fail on command."""

import sys

from shipworthy.serving.messages import process as consumer_process
from tests.serving.faulty_server import FaultyDisk, FaultyRuntime

if __name__ == "__main__":
    sys.exit(consumer_process.main(FaultyRuntime, FaultyDisk()))
