"""Run the mock cluster of librdkafka: prints its address, then calls functions of the mock, one JSON list per line."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import confluent_kafka

BROKERS = 1


def main() -> None:
    folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
    (library,) = (one for one in folder.iterdir() if one.name.startswith("librdkafka-"))
    kafka = ctypes.CDLL(str(library))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(kafka, name).restype = ctypes.c_void_p
    kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    error = ctypes.create_string_buffer(512)
    handle = kafka.rd_kafka_new(0, ctypes.c_void_p(kafka.rd_kafka_conf_new()), error, len(error))
    cluster = ctypes.c_void_p(kafka.rd_kafka_mock_cluster_new(ctypes.c_void_p(handle), BROKERS))
    print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        words = [one.encode() if isinstance(one, str) else one for one in arguments]
        result = getattr(kafka, f"rd_kafka_mock_{name}")(cluster, *words)
        print(result if name != "push_request_errors" and name != "clear_request_errors" else 0, flush=True)


if __name__ == "__main__":
    main()
