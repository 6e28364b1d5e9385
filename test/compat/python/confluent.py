"""Runs the checks of test/compat with confluent-kafka."""

import time

import confluent_kafka as ck
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec,
                                   ResourceType)

from check import BOOTSTRAP, CODECS, CORPUS, EPOCH, LEN, PARTITIONS, restart, run, same, say, whole

admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def create(topic):
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(20)


def dotted(options):
    return {k.replace("_", "."): v for k, v in options.items()}


def producer(**more):
    return Producer({"bootstrap.servers": BOOTSTRAP, "acks": "all", "linger.ms": 1, **dotted(more)})


def send(p, topic, records, pause=0.0, at=None):
    """Sends records and waits until each is acknowledged."""
    errors, acked = [], []

    def told(err, msg):
        (errors if err else acked).append(err or msg)

    for i, (k, v, h) in enumerate(records):
        p.produce(topic, key=k, value=v, headers=h, on_delivery=told)
        p.poll(pause)
        if at and i == at[0]:
            at[1]()
    same(p.flush(40), 0)
    same(errors, [])
    same(len(acked), len(records))


def consumer(group, **more):
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
                     "enable.partition.eof": True, **dotted(more)})


def to_end(c):
    """Reads up to the end of each of the four partitions."""
    records, ended, limit = [], set(), time.monotonic() + 30
    while len(ended) < PARTITIONS:
        assert time.monotonic() < limit, f"{len(records)} records and {len(ended)} ends after 30 s"
        m = c.poll(1)
        if m is None:
            continue
        if m.error() is None:
            records.append((m.key(), m.value(), m.headers()))
        elif m.error().code() == ck.KafkaError._PARTITION_EOF:
            ended.add(m.partition())
        else:
            raise ck.KafkaException(m.error())
    return records


def read(topic, level="read_uncommitted"):
    c = consumer("none", isolation_level=level)
    c.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    records = to_end(c)
    c.close()
    return records


def offset_of_time():
    c = consumer("none")
    same(c.offsets_for_times([TopicPartition("in.none", 2, EPOCH + 500)], 10)[0].offset, 125)
    same(c.get_watermark_offsets(TopicPartition("in.none", 2), 10), (0, LEN // PARTITIONS))
    c.close()
    got = admin.list_offsets({TopicPartition("in.none", 1): OffsetSpec.max_timestamp()})
    same([f.result().offset for f in got.values()], [LEN // PARTITIONS - 1])


def group(strategy):
    """Two members share four partitions and get each record once; who comes later reads nothing but what is new."""
    topic, name = f"confluent.{strategy}", f"confluents-{strategy}"
    create(topic)
    members = [consumer(name, partition_assignment_strategy=strategy, session_timeout_ms=6000) for _ in range(2)]
    for m in members:
        m.subscribe([topic])
    limit = time.monotonic() + 40
    while [len(m.assignment()) for m in members] != [2, 2]:
        assert time.monotonic() < limit, [m.assignment() for m in members]
        for m in members:
            m.poll(0.1)
    send(producer(enable_idempotence=True), topic, CORPUS)
    records = []
    while len(records) < LEN:
        assert time.monotonic() < limit, f"{len(records)} records"
        for m in members:
            msg = m.poll(0.05)
            if msg is not None and msg.error() is None:
                records.append((msg.key(), msg.value(), msg.headers()))
    whole(records)
    for m in members:
        m.commit(asynchronous=False)
        m.close()
    send(producer(), topic, CORPUS[7:8])
    late = consumer(name)
    late.subscribe([topic])
    same([r[1] for r in to_end(late)], [CORPUS[7][1]])
    late.close()


def transactions():
    p = producer(transactional_id="confluent")
    p.init_transactions(20)
    for at in range(0, LEN, 100):
        p.begin_transaction()
        send(p, "out.txn", CORPUS[at:at + 100])
        p.commit_transaction(20)
        p.begin_transaction()
        send(p, "out.txn", CORPUS[at:at + 10])
        p.abort_transaction(20)


def fenced():
    old, new = producer(transactional_id="confluent-fenced"), producer(transactional_id="confluent-fenced")
    old.init_transactions(20)
    new.init_transactions(20)
    try:
        old.begin_transaction()
        send(old, "confluent.range", CORPUS[:1])
        old.commit_transaction(20)
    except (ck.KafkaException, AssertionError):
        return
    raise AssertionError("the older producer was not fenced")


def exactly_once():
    """Copies a topic and moves the group's offsets in the same transactions, one of which is aborted and done again."""
    create("confluent.copy")
    p = producer(transactional_id="confluent-copy")
    p.init_transactions(20)
    c = consumer("confluent-copy", isolation_level="read_committed")
    c.subscribe(["in.txn"])
    done, aborted, limit = 0, False, time.monotonic() + 40
    while done < LEN:
        assert time.monotonic() < limit, f"{done} records"
        batch = [m for m in c.consume(50, 0.5) if m.error() is None]
        if not batch:
            continue
        for end in ((p.abort_transaction, p.commit_transaction) if not aborted else (p.commit_transaction,)):
            p.begin_transaction()
            send(p, "confluent.copy", [(m.key(), m.value(), m.headers()) for m in batch])
            ends = {m.partition(): m.offset() + 1 for m in batch}
            p.send_offsets_to_transaction([TopicPartition("in.txn", q, o) for q, o in ends.items()], c.consumer_group_metadata(), 20)
            end(20)
        aborted = True
        done += len(batch)
    c.close()
    whole(read("confluent.copy", "read_committed"))
    again = consumer("confluent-copy", isolation_level="read_committed")
    again.subscribe(["in.txn"])
    same(to_end(again), [])
    again.close()


def config_of(topic, name):
    r = ConfigResource(ResourceType.TOPIC, topic)
    return admin.describe_configs([r])[r].result(20)[name].value


def topics():
    admin.create_topics([NewTopic("confluent.admin", 3, 1, config={"retention.ms": "60000"})])["confluent.admin"].result(20)
    same(config_of("confluent.admin", "retention.ms"), "60000")
    r = ConfigResource(ResourceType.TOPIC, "confluent.admin")
    r.add_incremental_config(ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET))
    admin.incremental_alter_configs([r])[r].result(20)
    same(config_of("confluent.admin", "retention.ms"), "3600000")
    admin.create_partitions([NewPartitions("confluent.admin", 5)])["confluent.admin"].result(20)
    same(len(admin.list_topics("confluent.admin", 20).topics["confluent.admin"].partitions), 5)
    admin.delete_topics(["confluent.admin"])["confluent.admin"].result(20)
    assert "confluent.admin" not in admin.list_topics(timeout=20).topics


def delete_records():
    tp = TopicPartition("out.none", 0, 10)
    same(next(iter(admin.delete_records([tp]).values())).result(20).low_watermark, 10)


def groups():
    name, topic = "confluents-range", "confluent.range"
    assert name in [g.group_id for g in admin.list_consumer_groups().result(20).valid]
    same(admin.describe_consumer_groups([name])[name].result(20).state, ck.ConsumerGroupState.EMPTY)
    admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(name, [TopicPartition(topic, 0, 3)])])[name].result(20)
    got = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name, [TopicPartition(topic, 0)])])[name].result(20)
    same([p.offset for p in got.topic_partitions], [3])
    admin.delete_consumer_groups([name])[name].result(20)
    assert name not in [g.group_id for g in admin.list_consumer_groups().result(20).valid]


def cluster():
    got = admin.describe_cluster().result(20)
    same([n.id for n in got.nodes], [got.controller.id])


def survive():
    create("confluent.restart")
    send(producer(enable_idempotence=True), "confluent.restart", CORPUS, 0.002, (300, restart))
    whole(read("confluent.restart"))


say(version=f"{ck.__version__} ({ck.libversion()[0]})")
for codec in CODECS:
    run(f"read {codec}", lambda: whole(read(f"in.{codec}")))
    run(f"write {codec}", lambda: send(producer(compression_type=codec), f"out.{codec}", CORPUS), wrote=f"out.{codec}")
run("read_committed", lambda: whole(read("in.txn", "read_committed")))
run("read_uncommitted", lambda: same(len(read("in.txn")), LEN + LEN // 10))
run("offset of a time", offset_of_time)
run("group, range", group, "range")
run("group, cooperative-sticky", group, "cooperative-sticky")
run("transactions", transactions, wrote="out.txn")
run("an older transactional producer is fenced", fenced)
run("consume, produce and commit offsets in transactions", exactly_once)
run("topics: create, describe, configure, grow, delete", topics)
run("delete records", delete_records)
run("groups: list, describe, reset, delete", groups)
run("cluster", cluster)
run("acknowledged records survive kill -9", survive)
say(done=True)
