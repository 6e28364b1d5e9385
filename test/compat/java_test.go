package compat_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/testenv"
)

// java is a command of Apache Kafka's jars: a class, or a source file that Java compiles as it runs it.
func java(t *testing.T, args ...string) []string {
	t.Helper()
	libs, err := testenv.KafkaLibs()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(libs, "*")}, args...)
}

func TestJavaClients(t *testing.T) {
	onlyFull(t)
	cmd := java(t, here(t, "java", "Compat.java"))
	client(t, "Apache Kafka's Java clients").talk(exec.Command(cmd[0], cmd[1:]...))
}

// tools are the classes behind bin/kafka-*.sh.
const tools = "org.apache.kafka.tools."

// tool runs one of Apache Kafka's tools and wants each of the texts in what it prints.
func (s *subject) tool(check, stdin, class string, args []string, texts ...string) {
	s.t.Helper()
	s.check(check, func() error {
		ctx, cancel := s.within()
		defer cancel()
		cmd := java(s.t, append([]string{class}, args...)...)
		out, err := run(ctx, stdin, cmd[0], cmd[1:]...)
		for _, text := range texts {
			if err == nil && !strings.Contains(out, text) {
				err = fmt.Errorf("no %q in\n%s", text, out)
			}
		}
		return err
	})
}

func TestJavaTools(t *testing.T) {
	onlyFull(t)
	s := client(t, "Apache Kafka's command line tools")
	s.row.version = testenv.KafkaVersion
	with := func(args ...string) []string { return append([]string{"--bootstrap-server", s.broker.Kafka}, args...) }
	topic := func(args ...string) []string { return with(append(args, "--topic", "tools")...) }
	s.tool("kafka-topics --create", "", tools+"TopicCommand", topic("--create", "--partitions", "4", "--config", "retention.ms=60000"), "Created topic tools.")
	s.tool("kafka-topics --describe", "", tools+"TopicCommand", topic("--describe"), "PartitionCount: 4", "retention.ms=60000", "Leader: ")
	s.tool("kafka-topics --alter", "", tools+"TopicCommand", topic("--alter", "--partitions", "6"))
	s.tool("kafka-topics --list", "", tools+"TopicCommand", with("--list"), "in.none", "tools")
	s.tool("kafka-configs --alter", "", "kafka.admin.ConfigCommand", with("--alter", "--entity-type", "topics", "--entity-name", "tools", "--add-config", "retention.ms=3600000"), "Completed updating config")
	s.tool("kafka-configs --describe", "", "kafka.admin.ConfigCommand", with("--describe", "--entity-type", "topics", "--entity-name", "tools"), "retention.ms=3600000", "DYNAMIC_TOPIC_CONFIG")
	s.tool("kafka-console-producer", "k1:one\nk2:two\n", tools+"ConsoleProducer", topic("--reader-property", "parse.key=true", "--reader-property", "key.separator=:"))
	s.tool("kafka-console-consumer", "", tools+"consumer.ConsoleConsumer", topic("--from-beginning", "--max-messages", "2", "--formatter-property", "print.key=true", "--group", "console"), "k1\tone", "k2\ttwo")
	s.tool("kafka-get-offsets", "", tools+"GetOffsetShell", with("--topic", "in.none"), "in.none:0:250", "in.none:3:250")
	s.tool("kafka-verifiable-producer", "", tools+"VerifiableProducer", with("--topic", "verified", "--max-messages", "500"), `"sent":500`, `"acked":500`)
	s.tool("kafka-verifiable-consumer", "", tools+"VerifiableConsumer", with("--topic", "verified", "--group-id", "verifier", "--max-messages", "500", "--reset-policy", "earliest"), `"records_consumed"`, `"offsets_committed"`)
	s.tool("kafka-producer-perf-test", "", tools+"ProducerPerformance", []string{"--bootstrap-server", s.broker.Kafka, "--topic", "perf", "--num-records", "20000", "--record-size", "200", "--throughput", "-1"}, "20000 records sent")
	s.tool("kafka-consumer-perf-test", "", tools+"ConsumerPerformance", with("--topic", "perf", "--num-records", "20000"), "20000")
	s.tool("kafka-consumer-groups --list", "", tools+"consumer.group.ConsumerGroupCommand", with("--list"), "console", "verifier")
	s.tool("kafka-consumer-groups --describe", "", tools+"consumer.group.ConsumerGroupCommand", with("--describe", "--group", "verifier"), "verified")
	s.tool("kafka-consumer-groups --reset-offsets", "", tools+"consumer.group.ConsumerGroupCommand", with("--reset-offsets", "--group", "verifier", "--topic", "verified", "--to-earliest", "--execute"), "verified")
	s.tool("kafka-consumer-groups --delete", "", tools+"consumer.group.ConsumerGroupCommand", with("--delete", "--group", "verifier"), "successful")
	s.tool("kafka-log-dirs", "", tools+"LogDirsCommand", with("--describe", "--topic-list", "tools"), `"tools-0"`)
	s.tool("kafka-broker-api-versions", "", tools+"BrokerApiVersionsCommand", with(), "Produce(0)", "ConsumerGroupHeartbeat(68)")
	s.tool("kafka-transactions list", "", tools+"TransactionsCommand", with("list"), "filler")
	s.tool("kafka-features describe", "", tools+"FeatureCommand", with("describe"), "transaction.version")
	s.tool("kafka-metadata-quorum describe", "", tools+"MetadataQuorumCommand", with("describe", "--status"), "LeaderId")
	s.tool("kafka-topics --delete", "", tools+"TopicCommand", topic("--delete"))
}
