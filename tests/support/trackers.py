"""What trackers wrote, read back from their files."""

import json
import struct

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
BLOCK = 32768


def scalars(folder):
    """Of TensorBoard's event files in a folder: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def texts(folder):
    """Of TensorBoard's event files in a folder: tag -> the last text."""
    events = EventAccumulator(str(folder)).Reload()
    last = {tag: events.Tensors(tag)[-1].tensor_proto for tag in events.Tags()["tensors"]}
    return {
        tag.removesuffix("/text_summary"): tensor.string_val[0].decode()
        for tag, tensor in last.items()
    }


def wandb_records(file):
    """Of a .wandb file, which is a log in LevelDB's format after a header of 7 bytes."""
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    at, pieces = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no record's head fits: zeros
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        pieces += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(pieces)
            yield record
            pieces = b""


def wandb_history(file):
    """Of a .wandb file: the logged rows, without W&B's own keys."""
    rows = []
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append({key: value for key, value in items.items() if key[0] != "_"})
    return rows
