package cli_test

import (
	"strings"
	"testing"
)

type shown struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       *string
	Value     *string
	Bytes     []byte
	Headers   map[string]string
}

// consumed returns what consume --json prints, a record a line.
func consumed(t *testing.T, in call, args ...string) []shown {
	t.Helper()
	var list []shown
	for line := range strings.Lines(in.ok(t, append([]string{"consume", "--json"}, args...)...)) {
		var s shown
		parse(t, line, &s)
		list = append(list, s)
	}
	return list
}

func TestTopics_liveAndDie(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	at := []string{"--kafka", log.Kafka}
	outrelay := func(args ...string) string { t.Helper(); return call{}.ok(t, append(args, at...)...) }

	if out := outrelay("topics", "create", "one", "two", "--partitions", "4", "--set", "retention.ms=60000"); !strings.Contains(out, "topic one: created with 4 partitions") {
		t.Error(out)
	}
	if r := (call{}).run(t, append([]string{"topics", "create", "one"}, at...)...); r.code == 0 || !strings.Contains(r.stderr, "TOPIC_ALREADY_EXISTS") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if r := (call{}).run(t, append([]string{"topics", "create", "bad", "--set", "retention.ms=soon"}, at...)...); r.code == 0 || !strings.Contains(r.stderr, "INVALID_CONFIG") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	var list []struct {
		Name, ID   string
		Internal   bool
		Partitions int
		Records    int64
	}
	parse(t, outrelay("topics", "list", "--json"), &list)
	if len(list) != 2 || list[0].Name != "one" || list[0].Partitions != 4 || list[0].Internal || list[0].ID == "" {
		t.Errorf("%+v", list)
	}
	if text := outrelay("topics", "list"); !strings.Contains(text, "one") || !strings.Contains(text, "two") || strings.Contains(text, "__") {
		t.Error(text)
	}

	outrelay("topics", "alter", "one", "--set", "retention.ms=120000", "--partitions", "6")
	var d struct {
		Name    string
		Configs map[string]string
		Offsets []struct {
			Partition int32
			Start     int64 `json:"log_start_offset"`
			End       int64 `json:"high_watermark"`
		}
	}
	parse(t, outrelay("topics", "describe", "one", "--json"), &d)
	if d.Name != "one" || len(d.Offsets) != 6 || d.Configs["retention.ms"] != "120000" {
		t.Errorf("%+v", d)
	}
	outrelay("topics", "alter", "one", "--unset", "retention.ms")
	if text := outrelay("topics", "describe", "one"); !strings.Contains(text, "retention.ms = 604800000") {
		t.Errorf("the default is not back:\n%s", text)
	}
	if r := (call{}).run(t, append([]string{"topics", "alter", "one", "--partitions", "2"}, at...)...); r.code == 0 || !strings.Contains(r.stderr, "INVALID_PARTITIONS") {
		t.Errorf("fewer partitions: exit code %d: %s", r.code, r.stderr)
	}

	outrelay("topics", "delete", "one", "--yes")
	for _, args := range [][]string{{"topics", "describe", "one"}, {"topics", "delete", "one", "--yes"}, {"topics", "alter", "one", "--partitions", "9"}, {"consume", "one"}} {
		if r := (call{}).run(t, append(args, at...)...); r.code != 1 || !strings.Contains(r.stderr, "topic one: ") || strings.Contains(r.stderr, "log-unreachable") {
			t.Errorf("%v of a topic that is gone: exit code %d: %s", args, r.code, r.stderr)
		}
	}
}

func TestProduceConsume(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	at := []string{"--kafka", log.Kafka}
	call{}.ok(t, append([]string{"topics", "create", "t", "--partitions", "3"}, at...)...)
	var done struct {
		Topic   string
		Records int
	}
	in := call{stdin: "c1:first\nc2:second\nc1:third\nno key\n"}
	parse(t, in.ok(t, append([]string{"produce", "t", "--key-separator", ":", "--header", "kind=a=b", "--header", "empty=", "--compression", "zstd", "--json"}, at...)...), &done)
	if done.Topic != "t" || done.Records != 4 {
		t.Errorf("%+v", done)
	}
	byKey := map[string][]string{}
	partitions := map[string]int32{}
	for _, r := range consumed(t, call{}, append([]string{"t"}, at...)...) {
		key := "-"
		if r.Key != nil {
			key = *r.Key
			if p, ok := partitions[key]; ok && p != r.Partition {
				t.Errorf("key %s in partitions %d and %d", key, p, r.Partition)
			}
			partitions[key] = r.Partition
		}
		byKey[key] = append(byKey[key], *r.Value)
		if r.Headers["kind"] != "a=b" || r.Headers["empty"] != "" || len(r.Headers) != 2 {
			t.Errorf("headers %v", r.Headers)
		}
	}
	if got := strings.Join(byKey["c1"], ","); got != "first,third" {
		t.Errorf("c1: %s", got)
	}
	if len(byKey["c2"]) != 1 || len(byKey["-"]) != 1 || byKey["-"][0] != "no key" {
		t.Errorf("%v", byKey)
	}
	if text := (call{}).ok(t, append([]string{"consume", "t", "--limit", "1"}, at...)...); strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "t/") {
		t.Errorf("--limit 1: %q", text)
	}
	if list := consumed(t, call{}, append([]string{"t", "--from", "latest"}, at...)...); len(list) != 0 {
		t.Errorf("from latest, without --follow: %+v", list)
	}
	if list := consumed(t, call{}, append([]string{"t", "--from", "2999-01-01T00:00:00Z"}, at...)...); len(list) != 0 {
		t.Errorf("from the far future, without --follow: %+v", list)
	}
	if list := consumed(t, call{}, append([]string{"t", "--from", "2020-01-01T00:00:00Z"}, at...)...); len(list) != 4 {
		t.Errorf("from the past: %+v", list)
	}
	if r := (call{stdin: "x\n"}).run(t, append([]string{"produce", "t", "--partition", "7"}, at...)...); r.code == 0 {
		t.Errorf("a partition that is not there: %s", r.stderr)
	}
	if r := (call{stdin: "x\n"}).run(t, append([]string{"produce", "../t"}, at...)...); r.code == 0 || !strings.Contains(r.stderr, "../t") {
		t.Errorf("a name that is no topic's: exit code %d: %s", r.code, r.stderr)
	}
}
