"""Runs the checks of test/compat with kafka-python."""

import threading
import time

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource
from kafka.structs import OffsetAndMetadata

from check import BOOTSTRAP, CORPUS, EPOCH, LEN, PARTITIONS, restart, run, same, say, skip, whole

admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def create(topic, partitions=PARTITIONS, configs=None):
    admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs or {}}}, wait_for_metadata=True)


def send(topic, records=CORPUS, at=None, **options):
    """Sends records and waits until each is acknowledged."""
    p = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", **options)
    futures = []
    for i, (k, v, h) in enumerate(records):
        futures.append(p.send(topic, value=v, key=k, headers=h))
        if at and i == at[0]:
            at[1]()
    for f in futures:
        f.get(timeout=40)
    p.close()


def consumer(*topics, **options):
    return KafkaConsumer(*topics, bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", enable_auto_commit=False, **options)


def plain(r):
    return r.key, r.value, list(r.headers)


def gather(c, want, quiet=0.5):
    """Reads records until `want` are there and no more come."""
    records, limit = [], time.monotonic() + 30
    last = time.monotonic()
    while len(records) < want or time.monotonic() - last < quiet:
        assert time.monotonic() < limit, f"{len(records)} records after 30 s"
        for batch in c.poll(timeout_ms=200).values():
            records.extend(plain(r) for r in batch)
            last = time.monotonic()
    same(len(records), want)
    return records


def read(topic, want=LEN, level="read_uncommitted"):
    c = consumer(group_id=None, isolation_level=level)
    c.assign([TopicPartition(topic, p) for p in range(PARTITIONS)])
    c.seek_to_beginning()
    records = gather(c, want)
    c.close()
    return records


def offsets():
    c = consumer()
    tp = TopicPartition("in.none", 2)
    same(c.offsets_for_times({tp: EPOCH + 500})[tp].offset, 125)
    same((c.beginning_offsets([tp])[tp], c.end_offsets([tp])[tp]), (0, LEN // PARTITIONS))
    c.close()


def group():
    """Two members share four partitions and get each record once; who comes later reads nothing but what is new."""
    topic, name = "kafkapython.group", "kafkapythons"
    create(topic)
    members = [consumer(topic, group_id=name, session_timeout_ms=6000, heartbeat_interval_ms=500) for _ in range(2)]
    records, lock, stop = [], threading.Lock(), threading.Event()

    def consume(m):
        while not stop.is_set():
            for batch in m.poll(timeout_ms=100).values():
                with lock:
                    records.extend(plain(r) for r in batch)
        m.commit()
        m.close()

    # One after the other: a leader of this client that hears of a new topic while it joins hangs after the SyncGroup, and is given up by the group.
    threads, limit = [], time.monotonic() + 40
    for i, share in enumerate(([4], [2, 2])):
        threads.append(threading.Thread(target=consume, args=(members[i],), daemon=True))
        threads[i].start()
        while [len(m.assignment()) for m in members[:i + 1]] != share:
            assert time.monotonic() < limit, [m.assignment() for m in members]
            time.sleep(0.05)
    send(topic)
    while len(records) < LEN:
        assert time.monotonic() < limit, f"{len(records)} records"
        time.sleep(0.05)
    stop.set()
    for t in threads:
        t.join(20)
    whole(records)
    send(topic, CORPUS[7:8])
    late = consumer(topic, group_id=name)
    same(gather(late, 1), [CORPUS[7]])
    late.close()


def transactional(name):
    p = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=name)
    p.init_transactions()
    return p


def transactions():
    p = transactional("kafkapython")
    for at in range(0, LEN, 100):
        for n, end in ((100, p.commit_transaction), (10, p.abort_transaction)):
            p.begin_transaction()
            for k, v, h in CORPUS[at:at + n]:
                p.send("out.txn", value=v, key=k, headers=h)
            p.flush()
            end()
    p.close()


def exactly_once():
    """Copies a topic and moves the group's offsets in the same transactions."""
    create("kafkapython.copy")
    p = transactional("kafkapython-copy")
    c = consumer("in.txn", group_id="kafkapython-copy", isolation_level="read_committed")
    done, limit, ends = 0, time.monotonic() + 40, [p.abort_transaction]
    while done < LEN:
        assert time.monotonic() < limit, f"{done} records"
        got = c.poll(timeout_ms=500)
        if not got:
            continue
        for end in ends + [p.commit_transaction]:
            p.begin_transaction()
            for batch in got.values():
                for r in batch:
                    p.send("kafkapython.copy", value=r.value, key=r.key, headers=list(r.headers))
            p.send_offsets_to_transaction({tp: OffsetAndMetadata(b[-1].offset + 1, "", -1) for tp, b in got.items()}, c.group_metadata())
            end()
        ends = []
        done += sum(len(b) for b in got.values())
    c.close()
    p.close()
    whole(read("kafkapython.copy", level="read_committed"))
    again = consumer("in.txn", group_id="kafkapython-copy", isolation_level="read_committed")
    gather(again, 0, quiet=4)
    again.close()


def config_of(topic, name):
    got = admin.describe_configs([ConfigResource("topic", topic)], config_filter="all")
    return got["topic"][topic][name]["value"]


def topics():
    topic = "kafkapython.admin"
    create(topic, 3, {"retention.ms": "60000"})
    same(config_of(topic, "retention.ms"), "60000")
    admin.alter_configs([ConfigResource("topic", topic, {"retention.ms": "3600000"})])
    same(config_of(topic, "retention.ms"), "3600000")
    admin.create_partitions({topic: 5})
    same(len(admin.describe_topics([topic])[0]["partitions"]), 5)
    admin.delete_topics([topic])
    assert topic not in admin.list_topics()


def delete_records():
    admin.delete_records({TopicPartition("in.lz4", 0): 10})
    c = consumer()
    tp = TopicPartition("in.lz4", 0)
    same(c.beginning_offsets([tp])[tp], 10)
    c.close()


def groups():
    name, tp = "kafkapythons", TopicPartition("kafkapython.group", 0)
    assert name in [g["group_id"] for g in admin.list_groups()]
    same(admin.describe_groups([name])[name]["group_state"], "Empty")
    admin.alter_group_offsets(name, {tp: OffsetAndMetadata(3, "", -1)})
    same(admin.list_group_offsets({name: [tp]})[name][tp].offset, 3)
    admin.delete_groups([name])
    assert name not in [g["group_id"] for g in admin.list_groups()]


def survive():
    create("kafkapython.restart")
    send("kafkapython.restart", at=(300, restart), enable_idempotence=True)
    whole(read("kafkapython.restart"))


say(version=kafka.__version__)
for codec in ("none", "gzip"):
    run(f"read {codec}", lambda: whole(read(f"in.{codec}")))
    run(f"write {codec}", lambda: send(f"out.{codec}", compression_type=None if codec == "none" else codec), wrote=f"out.{codec}")
skip("snappy, lz4, zstd", "it needs other authors' packages for them")
run("read_committed", lambda: whole(read("in.txn", level="read_committed")))
run("read_uncommitted", lambda: read("in.txn", LEN + LEN // 10))
run("offset of a time", offsets)
run("group", group)
run("transactions", transactions, wrote="out.txn")
run("consume, produce and commit offsets in transactions", exactly_once)
run("topics: create, describe, configure, grow, delete", topics)
run("delete records", delete_records)
run("groups: list, describe, reset, delete", groups)
run("cluster", lambda: same(len(admin.describe_cluster()["brokers"]), 1))
run("acknowledged records survive kill -9", survive)
say(done=True)
