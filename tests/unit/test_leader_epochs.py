"""Which leader wrote what was read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gworkers.kafka.leader_epochs import LeaderEpochs
from gworkers.kafka.protocols import TopicPartition

TP = TopicPartition("t", 0)


def test_nothing_is_known_of_what_was_not_read() -> None:
    epochs = LeaderEpochs()
    assert epochs.before(TP, 5) == -1
    epochs.read(TP, 5, 3)
    assert epochs.before(TP, 5) == -1
    assert epochs.before(TP, 6) == 3


def test_a_commit_that_is_gone_on_from_is_kept() -> None:
    epochs = LeaderEpochs()
    epochs.read(TP, 0, 9)
    epochs.begin(TP, 100, 4)
    assert epochs.before(TP, 100) == 4
    epochs.read(TP, 100, 7)
    assert epochs.before(TP, 100) == 4
    assert epochs.before(TP, 101) == 7


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1), st.integers(0, 20)), max_size=30), st.data())
def test_each_offset_has_the_epoch_of_its_batch(batches: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Batches of so many records follow each other; the epoch grows now and then, and the log loses
    its end now and then."""
    epochs, epoch, asked = LeaderEpochs(), 0, 0
    log: list[int] = []
    for count, grows, lost in batches:
        if grows:
            epoch += 1
            if lost < 5:
                del log[max(asked, len(log) - lost) :]
        epochs.read(TP, len(log), epoch)
        log += [epoch] * count
        asked = data.draw(st.integers(asked, len(log)))
        if asked:
            assert epochs.before(TP, asked) == log[asked - 1]
