"""An event file as TensorBoard's own writer frames it. The unit test of `run/tensorboard.rs` makes the same events.

    pip install tensorboard==2.21.0
    python tensorboard_cases.py
"""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

OUT = Path(__file__).parent / "tensorboard"


def scalars(**values):
    return Summary(value=[Summary.Value(tag=tag.replace("__", "/"), simple_value=value) for tag, value in values.items()])


EVENTS = [
    Event(wall_time=1700000000.25, file_version="brain.Event:2"),
    Event(wall_time=1700000000.5, step=-2, session_log=SessionLog(status=SessionLog.START)),
    Event(wall_time=1700000001.0, step=-2, summary=scalars(warm_start__loss=2.5)),
    Event(wall_time=1700000002.0, step=0, summary=scalars(validation__accuracy_p=0.0, validation__loss_p=0.1)),
    Event(wall_time=1700000003.0, step=300, summary=scalars(train__loss=1.75, train__slope=-1e9, learning_rate__s=1e-30)),
    # More than 127 bytes: a length of two bytes.
    Event(wall_time=1700000004.0, step=2**40, summary=scalars(**{f"test__accuracy_{n}": n / 8 for n in range(9)})),
    Event(wall_time=1700000005.0, step=301, summary=Summary()),
]

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    with open(OUT / "events.bin", "wb") as file:
        writer = RecordWriter(file)
        for event in EVENTS:
            writer.write(event.SerializeToString())
