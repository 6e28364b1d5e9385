// Runs the checks of test/compat with Apache Kafka's own Java clients.

import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.AppInfoParser;

public class Compat {
    static final int LEN = 1000, PARTITIONS = 4;
    static final long EPOCH = 1_700_000_000_000L;
    static final String BOOTSTRAP = System.getenv("OUTRELAY_COMPAT_BOOTSTRAP");

    interface Check { void run() throws Exception; }

    static String json(String s) {
        return '"' + s.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n").replace("\t", " ").replace("\r", "") + '"';
    }

    static void run(String name, String wrote, Check f) {
        try {
            f.run();
            System.out.println("{\"check\":" + json(name) + ",\"result\":\"passed\",\"wrote\":" + json(wrote) + "}");
        } catch (Throwable e) {
            String where = Arrays.stream(e.getStackTrace()).limit(6).map(String::valueOf).collect(Collectors.joining(" < "));
            System.out.println("{\"check\":" + json(name) + ",\"result\":\"failed\",\"why\":" + json(e + " at " + where) + "}");
        }
    }

    static void same(Object got, Object want) {
        if (!Objects.equals(got, want)) throw new AssertionError("got " + got + ", want " + want);
    }

    static String key(int i) { return "k" + i % 10; }
    static String value(int i) { return "v" + i + ":" + "x".repeat(i % 200); }
    static String line(String key, String value, String n) { return key + "|" + value + "|" + n; }
    static String line(int i) { return line(key(i), value(i), "" + i); }

    static ProducerRecord<String, String> record(String topic, int i) {
        return new ProducerRecord<>(topic, null, key(i), value(i), List.of(new RecordHeader("n", ("" + i).getBytes(UTF_8))));
    }

    static Properties properties(String... options) {
        Properties p = new Properties();
        p.put("bootstrap.servers", BOOTSTRAP);
        for (int i = 0; i < options.length; i += 2) p.put(options[i], options[i + 1]);
        return p;
    }

    static KafkaProducer<String, String> producer(String... options) {
        return new KafkaProducer<>(properties(options), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String group, String... options) {
        Properties p = properties(options);
        p.put("auto.offset.reset", "earliest");
        p.put("enable.auto.commit", "false");
        p.put("group.id", group);
        return new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer());
    }

    // send waits until each record is acknowledged.
    static void send(Producer<String, String> p, String topic, int from, int limit) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int i = from; i < limit; i++) sent.add(p.send(record(topic, i)));
        for (Future<RecordMetadata> f : sent) f.get(40, TimeUnit.SECONDS);
    }

    static void write(String topic, String codec) throws Exception {
        try (var p = producer("compression.type", codec)) { send(p, topic, 0, LEN); }
    }

    static List<String> lines(ConsumerRecords<String, String> records) {
        List<String> list = new ArrayList<>();
        for (var r : records) list.add(line(r.key(), r.value(), new String(r.headers().lastHeader("n").value(), UTF_8)));
        return list;
    }

    static List<String> read(String topic, String level) {
        try (var c = consumer("read", "isolation.level", level)) {
            List<TopicPartition> all = IntStream.range(0, PARTITIONS).mapToObj(p -> new TopicPartition(topic, p)).toList();
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all);
            List<String> got = new ArrayList<>();
            for (long limit = System.nanoTime() + 30_000_000_000L; all.stream().anyMatch(tp -> c.position(tp) < ends.get(tp)); ) {
                if (System.nanoTime() > limit) throw new AssertionError(got.size() + " records after 30 s");
                got.addAll(lines(c.poll(Duration.ofMillis(200))));
            }
            return got;
        }
    }

    static void whole(List<String> got) {
        same(got.size(), LEN);
        same(got.stream().sorted().toList(), IntStream.range(0, LEN).mapToObj(Compat::line).sorted().toList());
    }

    static void create(Admin a, String topic, int partitions, Map<String, String> configs) throws Exception {
        a.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(configs))).all().get();
    }

    // Two members share four partitions and get each record once; who comes later reads nothing but what is new.
    static void group(Admin a, String topic, String... options) throws Exception {
        create(a, topic, PARTITIONS, Map.of());
        List<KafkaConsumer<String, String>> members = List.of(consumer(topic, options), consumer(topic, options));
        for (var m : members) m.subscribe(List.of(topic));
        long limit = System.nanoTime() + 60_000_000_000L;
        while (!members.stream().allMatch(m -> m.assignment().size() == 2)) {
            if (System.nanoTime() > limit) throw new AssertionError("shares: " + members.stream().map(m -> m.assignment().toString()).toList());
            for (var m : members) m.poll(Duration.ofMillis(50));
        }
        write(topic, "none");
        List<String> got = new ArrayList<>();
        while (got.size() < LEN) {
            if (System.nanoTime() > limit) throw new AssertionError(got.size() + " records");
            for (var m : members) got.addAll(lines(m.poll(Duration.ofMillis(50))));
        }
        whole(got);
        for (var m : members) {
            m.commitSync();
            m.close();
        }
        try (var p = producer()) { send(p, topic, 7, 8); }
        try (var late = consumer(topic, options)) {
            late.subscribe(List.of(topic));
            List<String> more = new ArrayList<>();
            while (more.isEmpty()) {
                if (System.nanoTime() > limit) throw new AssertionError("nothing after the commit");
                more.addAll(lines(late.poll(Duration.ofMillis(100))));
            }
            same(more, List.of(line(7)));
        }
    }

    static void transactions() throws Exception {
        try (var p = producer("transactional.id", "java")) {
            p.initTransactions();
            for (int at = 0; at < LEN; at += 100) {
                p.beginTransaction();
                send(p, "out.txn", at, at + 100);
                p.commitTransaction();
                p.beginTransaction();
                send(p, "out.txn", at, at + 10);
                p.abortTransaction();
            }
        }
    }

    static void fenced() {
        try (var old = producer("transactional.id", "java-fenced"); var now = producer("transactional.id", "java-fenced")) {
            old.initTransactions();
            now.initTransactions();
            try {
                old.beginTransaction();
                old.send(record("out.none", 0));
                old.commitTransaction();
            } catch (KafkaException e) {
                return;
            }
            throw new AssertionError("the older producer was not fenced");
        }
    }

    // Copies a topic and moves the group's offsets in the same transactions; the first is aborted and done again.
    static void exactlyOnce(Admin a) throws Exception {
        create(a, "java.copy", PARTITIONS, Map.of());
        int done = 0;
        boolean abort = true;
        try (var p = producer("transactional.id", "java-copy"); var c = consumer("java-copy", "isolation.level", "read_committed", "max.poll.records", "100")) {
            p.initTransactions();
            c.subscribe(List.of("in.txn"));
            for (long limit = System.nanoTime() + 60_000_000_000L; done < LEN; ) {
                if (System.nanoTime() > limit) throw new AssertionError(done + " records");
                ConsumerRecords<String, String> records = c.poll(Duration.ofMillis(200));
                if (records.isEmpty()) continue;
                if (abort) {
                    copy(p, c, records);
                    p.abortTransaction();
                    abort = false;
                }
                copy(p, c, records);
                p.commitTransaction();
                done += records.count();
            }
        }
        whole(read("java.copy", "read_committed"));
    }

    static void copy(KafkaProducer<String, String> p, KafkaConsumer<String, String> c, ConsumerRecords<String, String> records) {
        p.beginTransaction();
        Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
        for (var r : records) {
            p.send(new ProducerRecord<>("java.copy", null, r.key(), r.value(), r.headers()));
            ends.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
        }
        p.sendOffsetsToTransaction(ends, c.groupMetadata());
    }

    static String config(Admin a, String topic, String name) throws Exception {
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return a.describeConfigs(List.of(r)).all().get().get(r).get(name).value();
    }

    static void topics(Admin a) throws Exception {
        create(a, "java.admin", 3, Map.of("retention.ms", "60000"));
        same(config(a, "java.admin", "retention.ms"), "60000");
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, "java.admin");
        a.incrementalAlterConfigs(Map.of(r, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET)))).all().get();
        same(config(a, "java.admin", "retention.ms"), "3600000");
        a.createPartitions(Map.of("java.admin", NewPartitions.increaseTo(5))).all().get();
        same(a.describeTopics(List.of("java.admin")).allTopicNames().get().get("java.admin").partitions().size(), 5);
        a.deleteTopics(List.of("java.admin")).all().get();
        same(a.listTopics().names().get().contains("java.admin"), false);
    }

    static void offsets(Admin a) throws Exception {
        TopicPartition tp = new TopicPartition("in.none", 2);
        for (var e : Map.of(OffsetSpec.earliest(), 0L, OffsetSpec.latest(), 250L, OffsetSpec.maxTimestamp(), 249L, OffsetSpec.forTimestamp(EPOCH + 500), 125L).entrySet()) {
            same(a.listOffsets(Map.of(tp, e.getKey())).all().get().get(tp).offset(), e.getValue());
        }
        TopicPartition less = new TopicPartition("in.lz4", 0);
        same(a.deleteRecords(Map.of(less, RecordsToDelete.beforeOffset(10))).lowWatermarks().get(less).get().lowWatermark(), 10L);
        same(a.listOffsets(Map.of(less, OffsetSpec.earliest())).all().get().get(less).offset(), 10L);
    }

    static boolean listed(Admin a, String group) throws Exception {
        return a.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals(group));
    }

    static void groups(Admin a) throws Exception {
        String name = "java.classic";
        same(listed(a, name), true);
        same(a.describeConsumerGroups(List.of(name)).all().get().get(name).groupState(), GroupState.EMPTY);
        TopicPartition tp = new TopicPartition(name, 0);
        a.alterConsumerGroupOffsets(name, Map.of(tp, new OffsetAndMetadata(3))).all().get();
        same(a.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get().get(tp).offset(), 3L);
        a.deleteConsumerGroupOffsets(name, Set.of(tp)).all().get();
        a.deleteConsumerGroups(List.of(name)).all().get();
        same(listed(a, name), false);
    }

    static void cluster(Admin a) throws Exception {
        DescribeClusterResult c = a.describeCluster();
        same(c.nodes().get().size(), 1);
        int node = c.controller().get().id();
        same(a.describeLogDirs(List.of(node)).allDescriptions().get().get(node).isEmpty(), false);
        same(a.describeFeatures().featureMetadata().get().finalizedFeatures().containsKey("transaction.version"), true);
        same(a.listTransactions().all().get().stream().anyMatch(t -> t.transactionalId().equals("java")), true);
        TopicPartition tp = new TopicPartition("in.txn", 0);
        a.describeProducers(List.of(tp)).all().get();
    }

    static void survive(Admin a) throws Exception {
        create(a, "java.restart", PARTITIONS, Map.of());
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var p = producer("delivery.timeout.ms", "60000")) {
            for (int i = 0; i < LEN; i++) {
                sent.add(p.send(record("java.restart", i)));
                if (i == 300) {
                    System.out.println("{\"ask\":\"restart\"}");
                    same(new Scanner(System.in).nextLine(), "ok");
                }
            }
            for (Future<RecordMetadata> f : sent) f.get(60, TimeUnit.SECONDS);
        }
        whole(read("java.restart", "read_uncommitted"));
    }

    public static void main(String[] args) throws Exception {
        System.out.println("{\"version\":" + json(AppInfoParser.getVersion()) + "}");
        try (Admin a = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP))) {
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                run("read " + codec, "", () -> whole(read("in." + codec, "read_uncommitted")));
                run("write " + codec, "out." + codec, () -> write("out." + codec, codec));
            }
            run("read_committed", "", () -> whole(read("in.txn", "read_committed")));
            run("read_uncommitted", "", () -> same(read("in.txn", "read_uncommitted").size(), LEN + LEN / 10));
            run("group, classic", "", () -> group(a, "java.classic"));
            run("group, cooperative-sticky", "", () -> group(a, "java.cooperative", "partition.assignment.strategy", CooperativeStickyAssignor.class.getName()));
            run("group, KIP-848", "", () -> group(a, "java.consumer", "group.protocol", "consumer"));
            run("transactions", "out.txn", () -> transactions());
            run("an older transactional producer is fenced", "", Compat::fenced);
            run("consume, produce and commit offsets in transactions", "", () -> exactlyOnce(a));
            run("topics: create, describe, configure, grow, delete", "", () -> topics(a));
            run("offsets of times, delete records", "", () -> offsets(a));
            run("groups: list, describe, reset, delete", "", () -> groups(a));
            run("cluster, log directories, features, transactions, producers", "", () -> cluster(a));
            run("acknowledged records survive kill -9", "", () -> survive(a));
        }
        System.out.println("{\"done\":true}");
    }
}
