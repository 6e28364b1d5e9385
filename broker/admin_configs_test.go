package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
)

const (
	aTopic  = kmsg.ConfigResourceTypeTopic
	aBroker = kmsg.ConfigResourceTypeBroker
)

// describeConfig returns one config of a resource; nil when it is not there.
func describeConfig(c *rawConn, kind kmsg.ConfigResourceType, name, config string) *kmsg.DescribeConfigsResponseResourceConfig {
	c.t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	rr := kmsg.NewDescribeConfigsRequestResource()
	rr.ResourceType, rr.ResourceName, rr.ConfigNames = kind, name, []string{config}
	req.Resources = append(req.Resources, rr)
	req.IncludeSynonyms, req.IncludeDocumentation = true, true
	r := request[*kmsg.DescribeConfigsResponse](c, req, 4).Resources[0]
	if r.ErrorCode != 0 {
		c.t.Fatalf("describe %s: error %d %s", name, r.ErrorCode, *r.ErrorMessage)
	}
	if len(r.Configs) == 0 {
		return nil
	}
	return &r.Configs[0]
}

// synonyms is where a config is set: the value that counts first.
func synonyms(c *kmsg.DescribeConfigsResponseResourceConfig) string {
	if c == nil {
		return ""
	}
	var out []string
	for _, s := range c.ConfigSynonyms {
		out = append(out, fmt.Sprintf("%v %s=%s", s.Source, s.Name, *s.Value))
	}
	return strings.Join(out, ", ")
}

// alter asks for one change of a resource and returns the error and its text.
func alter(c *rawConn, kind kmsg.ConfigResourceType, name string, op kmsg.IncrementalAlterConfigOp, config string, value *string) (int16, string) {
	c.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kind, name
	cf := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	cf.Name, cf.Op, cf.Value = config, op, value
	rr.Configs = append(rr.Configs, cf)
	req.Resources = append(req.Resources, rr)
	r := request[*kmsg.IncrementalAlterConfigsResponse](c, req, 1).Resources[0]
	if r.ErrorMessage == nil {
		return r.ErrorCode, ""
	}
	return r.ErrorCode, *r.ErrorMessage
}

// A topic's config comes from the topic, from this node, from all nodes, from the node's file, or is Kafka's default: the first counts, and all
// are told, under the names they have there (KIP-226).
func TestConfigs_layers(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, func(o *broker.Options) { o.SegmentBytes = 1 << 20 })
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	topicValue := func(want string, wantSynonyms ...string) {
		t.Helper()
		d := describeConfig(c, aTopic, "t", "segment.bytes")
		if *d.Value != want || synonyms(d) != strings.Join(wantSynonyms, ", ") || d.ReadOnly || d.ConfigType != kmsg.ConfigTypeInt {
			t.Errorf("segment.bytes = %s, want %s: %s", *d.Value, want, synonyms(d))
		}
	}
	set := func(kind kmsg.ConfigResourceType, name, config, value string) {
		t.Helper()
		if code, text := alter(c, kind, name, kmsg.IncrementalAlterConfigOpSet, config, &value); code != 0 {
			t.Fatalf("set %s of %q: error %d: %s", config, name, code, text)
		}
	}
	unset := func(kind kmsg.ConfigResourceType, name, config string) {
		t.Helper()
		if code, text := alter(c, kind, name, kmsg.IncrementalAlterConfigOpDelete, config, nil); code != 0 {
			t.Fatalf("take back %s of %q: error %d: %s", config, name, code, text)
		}
	}
	const static, def = "STATIC_BROKER_CONFIG log.segment.bytes=1048576", "DEFAULT_CONFIG log.segment.bytes=134217728"
	topicValue("1048576", static, def)
	set(aBroker, "", "log.segment.bytes", "65536")
	topicValue("65536", "DYNAMIC_DEFAULT_BROKER_CONFIG log.segment.bytes=65536", static, def)
	set(aBroker, "1", "log.segment.bytes", "131072")
	topicValue("131072", "DYNAMIC_BROKER_CONFIG log.segment.bytes=131072", "DYNAMIC_DEFAULT_BROKER_CONFIG log.segment.bytes=65536", static, def)
	set(aTopic, "t", "segment.bytes", "262144")
	topicValue("262144", "DYNAMIC_TOPIC_CONFIG segment.bytes=262144", "DYNAMIC_BROKER_CONFIG log.segment.bytes=131072",
		"DYNAMIC_DEFAULT_BROKER_CONFIG log.segment.bytes=65536", static, def)
	if d := describeConfig(c, aBroker, "1", "log.segment.bytes"); *d.Value != "131072" || d.ReadOnly || d.Documentation == nil {
		t.Errorf("the node's own: %+v", d)
	}
	if d := describeConfig(c, aBroker, "", "log.segment.bytes"); *d.Value != "65536" || d.Source != kmsg.ConfigSourceDynamicDefaultBrokerConfig {
		t.Errorf("all nodes': %+v", d)
	}
	unset(aTopic, "t", "segment.bytes")
	n.CrashRestart()
	c = dialRaw(t, n)
	topicValue("131072", "DYNAMIC_BROKER_CONFIG log.segment.bytes=131072", "DYNAMIC_DEFAULT_BROKER_CONFIG log.segment.bytes=65536", static, def)
	n.Restart() // from the checkpoint
	c = dialRaw(t, n)
	unset(aBroker, "1", "log.segment.bytes")
	unset(aBroker, "", "log.segment.bytes")
	topicValue("1048576", static, def)
	if d := describeConfig(c, aBroker, "", "log.segment.bytes"); d != nil {
		t.Errorf("all nodes', taken back: %+v", d)
	}
}

// A default that is changed while the node runs counts for the topics that exist, at once.
func TestConfigs_defaultsAreInForce(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	produce := func() int16 {
		return request[*kmsg.ProduceResponse](c, produceRequest("t", 0, plainBatch(strings.Repeat("v", 2000))), 9).Topics[0].Partitions[0].ErrorCode
	}
	if code := produce(); code != 0 {
		t.Fatalf("error %d", code)
	}
	small := "1000"
	if code, text := alter(c, aBroker, "", kmsg.IncrementalAlterConfigOpSet, "message.max.bytes", &small); code != 0 {
		t.Fatalf("error %d: %s", code, text)
	}
	if code := produce(); code != kerr.MessageTooLarge.Code {
		t.Errorf("a batch above the new default: error %d", code)
	}
	if code, _ := alter(c, aBroker, "", kmsg.IncrementalAlterConfigOpDelete, "message.max.bytes", nil); code != 0 || produce() != 0 {
		t.Error("the default did not come back")
	}
}

func TestConfigs_refusals(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	const (
		set, del = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete
		app, sub = kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract
	)
	invalid, request, unknown := kerr.InvalidConfig.Code, kerr.InvalidRequest.Code, kerr.UnknownTopicOrPartition.Code
	for _, tc := range []struct {
		kind         kmsg.ConfigResourceType
		name         string
		op           kmsg.IncrementalAlterConfigOp
		config, want string
		value        string
		code         int16
	}{
		{aTopic, "none", set, "retention.ms", "", "1", unknown},
		{aTopic, "t", set, "no.such", `unknown topic config "no.such"`, "1", invalid},
		{aTopic, "t", del, "no.such", `unknown topic config "no.such"`, "", invalid},
		{aTopic, "t", set, "retention.ms", "want a whole number", "soon", invalid},
		{aTopic, "t", set, "unclean.leader.election.enable", "want true or false", "maybe", invalid},
		{aTopic, "t", set, "remote.storage.enable", "want false", "true", invalid},
		{aTopic, "t", app, "retention.ms", "not a list", "1", invalid},
		{aTopic, "t", 9, "cleanup.policy", "no operation 9", "x", request},
		{aTopic, "t", app, "cleanup.policy", "", "compact", 0},
		{aTopic, "t", sub, "cleanup.policy", "", "delete", 0},
		{aTopic, "t", app, "leader.replication.throttled.replicas", "", "0:1", 0},
		{aBroker, "2", set, "log.retention.ms", `node "2" is not this one`, "1", request},
		{aBroker, "x", set, "log.retention.ms", `node "x" is not this one`, "1", request},
		{aBroker, "1", set, "num.partitions", "cannot be changed while the node runs", "3", request},
		{aBroker, "", set, "advertised.listeners", "cannot be changed while the node runs", "x", request},
		{aBroker, "1", set, "no.such", `unknown broker config "no.such"`, "1", invalid},
		{aBroker, "1", set, "log.retention.ms", "log.retention.ms: \"soon\"", "soon", invalid},
		{aBroker, "1", set, "leader.replication.throttled.rate", "", "1000", 0},
		{aBroker, "1", del, "leader.replication.throttled.rate", "", "", 0},
		{aBroker, "1", del, "follower.replication.throttled.rate", "", "", 0}, // was never set
		{aBroker, "1", del, "num.partitions", "", "", 0},
		{kmsg.ConfigResourceTypeBrokerLogger, "1", set, "root", "no configuration here", "DEBUG", request},
		{kmsg.ConfigResourceTypeClientMetrics, "m", set, "interval.ms", "no configuration here", "1", request},
	} {
		var value *string
		if tc.op != del {
			value = &tc.value
		}
		code, text := alter(c, tc.kind, tc.name, tc.op, tc.config, value)
		if code != tc.code || !strings.Contains(text, tc.want) {
			t.Errorf("%v %q %v %s=%s: error %d, %q", tc.kind, tc.name, tc.op, tc.config, tc.value, code, text)
		}
	}
	if d := describeConfig(c, aTopic, "t", "cleanup.policy"); *d.Value != "compact" {
		t.Errorf("cleanup.policy %s", *d.Value)
	}
}

// AlterConfigs replaces what is set; a request that is only validated, or wrong in one thing, changes nothing.
func TestAlterConfigs_replaces(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 1)
	versions(t, 33, n, func(t *testing.T, c *rawConn, v int16) {
		for _, target := range []struct {
			kind         kmsg.ConfigResourceType
			name         string
			first, other string
		}{{aTopic, "t", "retention.ms", "segment.ms"}, {aBroker, "1", "log.retention.ms", "log.roll.ms"}, {aBroker, "", "log.retention.ms", "log.roll.ms"}} {
			alterAll := func(validate bool, configs ...string) int16 {
				req := kmsg.NewPtrAlterConfigsRequest()
				rr := kmsg.NewAlterConfigsRequestResource()
				rr.ResourceType, rr.ResourceName = target.kind, target.name
				for i := 0; i < len(configs); i += 2 {
					cf := kmsg.NewAlterConfigsRequestResourceConfig()
					cf.Name, cf.Value = configs[i], &configs[i+1]
					rr.Configs = append(rr.Configs, cf)
				}
				req.Resources, req.ValidateOnly = append(req.Resources, rr), validate
				return request[*kmsg.AlterConfigsResponse](c, req, v).Resources[0].ErrorCode
			}
			value := func(config string) string {
				if d := describeConfig(c, target.kind, target.name, config); d != nil {
					return *d.Value
				}
				return ""
			}
			was := value(target.first)
			for _, step := range []struct {
				validate bool
				configs  []string
				code     int16
				want     [2]string
			}{
				{false, []string{target.first, "5000"}, 0, [2]string{"5000", value(target.other)}},
				{true, []string{target.first, "6000"}, 0, [2]string{"5000", value(target.other)}},
				{false, []string{target.first, "6000", target.other, "never"}, kerr.InvalidConfig.Code, [2]string{"5000", value(target.other)}},
				{false, []string{target.other, "7000"}, 0, [2]string{was, "7000"}},
				{false, []string{target.other, "7000", target.other, "8000"}, kerr.InvalidRequest.Code, [2]string{was, "7000"}},
				{false, nil, 0, [2]string{was, value(target.other)}},
			} {
				code := alterAll(step.validate, step.configs...)
				if got := [2]string{value(target.first), value(target.other)}; code != step.code || got != step.want {
					t.Errorf("v%d %q %v: error %d, %v, want %v", v, target.name, step.configs, code, got, step.want)
				}
			}
		}
	})
}

// What tools look for is there, with a type and an explanation, and what cannot be changed says so.
func TestDescribeConfigs_ofABroker(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	versions(t, 32, n, func(t *testing.T, c *rawConn, v int16) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = aBroker, "1"
		req.Resources = append(req.Resources, rr)
		req.IncludeSynonyms, req.IncludeDocumentation = v >= 1, v >= 3
		r := request[*kmsg.DescribeConfigsResponse](c, req, v).Resources[0]
		var names []string
		got := map[string]*kmsg.DescribeConfigsResponseResourceConfig{}
		for i := range r.Configs {
			cf := &r.Configs[i]
			names = append(names, cf.Name)
			got[cf.Name] = cf
			if v >= 3 && (cf.Documentation == nil || cf.ConfigType == 0) {
				t.Errorf("v%d: %s has type %d, documentation %v", v, cf.Name, cf.ConfigType, cf.Documentation)
			}
			if v >= 1 && len(cf.ConfigSynonyms) == 0 {
				t.Errorf("v%d: %s has no synonyms", v, cf.Name)
			}
		}
		if !slices.IsSorted(names) || len(slices.Compact(names)) != len(r.Configs) {
			t.Errorf("v%d: not sorted, or not once each: %v", v, names)
		}
		for name, want := range map[string]string{
			"node.id": "1", "advertised.listeners": "CLIENT://" + n.TCPAddr(), "num.partitions": "16", "transaction.max.timeout.ms": "900000",
			"min.insync.replicas": "1", "log.retention.ms": "604800000", "message.max.bytes": "1048588", "auto.create.topics.enable": "true",
		} {
			switch cf := got[name]; {
			case cf == nil:
				t.Errorf("v%d: no %s", v, name)
			case *cf.Value != want || cf.ReadOnly == (name == "log.retention.ms" || name == "message.max.bytes" || name == "min.insync.replicas"):
				t.Errorf("v%d: %s = %s, read only %v", v, name, *cf.Value, cf.ReadOnly)
			}
		}
	})
	c := dialRaw(t, n)
	for _, kind := range []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics, 77} {
		req := kmsg.NewPtrDescribeConfigsRequest()
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kind, "1"
		req.Resources = append(req.Resources, rr)
		if r := request[*kmsg.DescribeConfigsResponse](c, req, 4).Resources[0]; r.ErrorCode != kerr.InvalidRequest.Code || r.ErrorMessage == nil {
			t.Errorf("resource type %v: %+v", kind, r)
		}
	}
}

// A consumer group's own session timeout and heartbeat interval come before the node's, are told with where they come from, and are in force, also
// after a power cut.
func TestConfigs_ofAGroup(t *testing.T) {
	t.Parallel()
	const (
		aGroup   = kmsg.ConfigResourceTypeGroupConfig
		beat     = "consumer.heartbeat.interval.ms"
		session  = "consumer.session.timeout.ms"
		set, del = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete
	)
	n := brokertest.New(t, func(o *broker.Options) { o.ConsumerGroupHeartbeat = 2 * time.Second })
	c := dialRaw(t, n)
	interval := func() int32 {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.RebalanceTimeoutMillis = "g", "m", 60_000
		req.SubscribedTopicNames, req.Topics = []string{}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		var r *kmsg.ConsumerGroupHeartbeatResponse
		for r == nil || r.ErrorCode == kerr.NotCoordinator.Code { // the coordinator's topic is made by the first FindCoordinator
			f := kmsg.NewPtrFindCoordinatorRequest()
			f.CoordinatorKeys = []string{"g"}
			request[*kmsg.FindCoordinatorResponse](c, f, 4)
			r = request[*kmsg.ConsumerGroupHeartbeatResponse](c, req, 1)
		}
		if r.ErrorCode != 0 {
			t.Fatalf("heartbeat: %d", r.ErrorCode)
		}
		return r.HeartbeatIntervalMillis
	}
	if got := interval(); got != 2000 {
		t.Errorf("interval %d, the node's is 2000", got)
	}
	for _, tc := range []struct {
		name, config, value, want string
		op                        kmsg.IncrementalAlterConfigOp
		code                      int16
	}{
		{"", beat, "1000", "no configuration here", set, kerr.InvalidRequest.Code},
		{"g", "share.session.timeout.ms", "1000", "unknown group config", set, kerr.InvalidConfig.Code},
		{"g", beat, "soon", "want a whole number", set, kerr.InvalidConfig.Code},
		{"g", beat, "50000", "is not below consumer.session.timeout.ms, which is 45s", set, kerr.InvalidConfig.Code},
		{"g", session, "2000", "is not below", set, kerr.InvalidConfig.Code},
		{"g", session, "60000", "", set, 0},
		{"g", beat, "50000", "", set, 0},
		{"g", session, "", "is not below", del, kerr.InvalidConfig.Code},
		{"g", beat, "500", "", set, 0},
		{"g", session, "", "", del, 0},
	} {
		var value *string
		if tc.op == set {
			value = &tc.value
		}
		if code, text := alter(c, aGroup, tc.name, tc.op, tc.config, value); code != tc.code || !strings.Contains(text, tc.want) {
			t.Errorf("%q %s=%q: error %d, %q", tc.name, tc.config, tc.value, code, text)
		}
	}
	for range 2 {
		want := "GROUP_CONFIG consumer.heartbeat.interval.ms=500, STATIC_BROKER_CONFIG group.consumer.heartbeat.interval.ms=2000, DEFAULT_CONFIG group.consumer.heartbeat.interval.ms=5000"
		if got := synonyms(describeConfig(c, aGroup, "g", beat)); got != want {
			t.Errorf("set in %s", got)
		}
		if got := interval(); got != 500 {
			t.Errorf("interval %d, the group's is 500", got)
		}
		n.CrashRestart()
		c = dialRaw(t, n)
	}
	req := kmsg.NewPtrAlterConfigsRequest()
	rr := kmsg.NewAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = aGroup, "g"
	rr.Configs = []kmsg.AlterConfigsRequestResourceConfig{{Name: session, Value: new("10000")}}
	req.Resources = append(req.Resources, rr)
	if r := request[*kmsg.AlterConfigsResponse](c, req, 2).Resources[0]; r.ErrorCode != 0 {
		t.Errorf("replaced: %d %s", r.ErrorCode, *r.ErrorMessage)
	}
	if got := interval(); got != 2000 {
		t.Errorf("interval %d after it was replaced", got)
	}
	list := kmsg.NewPtrListConfigResourcesRequest()
	list.ResourceTypes = []int8{int8(aGroup)}
	if r := request[*kmsg.ListConfigResourcesResponse](c, list, 1); len(r.ConfigResources) != 1 || r.ConfigResources[0].Name != "g" {
		t.Errorf("listed %+v", r.ConfigResources)
	}
}
