package kafka_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

func TestDescribe_SaysWhatHolds(t *testing.T) {
	t.Parallel()
	_, cl := newLog(t)
	s, err := kafka.Describe(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if s.ClusterID == "" || s.Brokers != 1 || s.TransactionVersion != 2 || !s.TopicIDs {
		t.Errorf("%+v", s)
	}
	if g := s.Guarantees()[0]; !g.Holds || !strings.Contains(g.Text, "KIP-890") {
		t.Errorf("%+v", g)
	}
}

func TestDescribe_OlderBrokers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		versions *kversion.Versions
		want     string
	}{
		"3.9: transaction version 1": {kversion.V3_9_0(), "KAFKA-17754"},
		"2.7: no topic ids":          {kversion.V2_7_0(), "KIP-516"},
	} {
		c, want := c.versions, c.want
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(c))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(fake.Close)
			fake.ControlKey(int16(kmsg.ApiVersions), func(req kmsg.Request) (kmsg.Response, error, bool) {
				fake.KeepControl()
				return withoutFeatures(req, c), nil, true
			})
			s, err := kafka.Describe(t.Context(), newClient(t, fake))
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range s.Guarantees() {
				if !g.Holds && strings.Contains(g.Text, want) {
					return
				}
			}
			t.Errorf("%+v: nothing names %s: %+v", s, want, s.Guarantees())
		})
	}
}

// withoutFeatures answers as a broker of that version without any feature.
func withoutFeatures(req kmsg.Request, v *kversion.Versions) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	v.EachMaxKeyVersion(func(k, max int16) {
		key := kmsg.NewApiVersionsResponseApiKey()
		key.ApiKey, key.MaxVersion = k, max
		resp.ApiKeys = append(resp.ApiKeys, key)
	})
	return resp
}

func TestEnsureTopic_SaysWhatToCreateWhereItMayNot(t *testing.T) {
	t.Parallel()
	fake, cl := newLog(t)
	fake.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.ErrorCode = "t", kerr.TopicAuthorizationFailed.Code
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	_, err := kafka.Options{ReplicationFactor: 3, MinInsyncReplicas: 2}.EnsureTopic(t.Context(), cl, "t", 16, map[string]string{"cleanup.policy": "compact"})
	var e *outrelay.Error
	if !errors.As(err, &e) || e.Code != "topic-missing" || !errors.Is(err, outrelay.ErrEnvironment) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"--topic t", "--partitions 16", "--replication-factor 3", "--config cleanup.policy=compact", "--config min.insync.replicas=2"} {
		if !strings.Contains(e.Fix, want) {
			t.Errorf("%q lacks %q", e.Fix, want)
		}
	}
}

func TestEnsureTopic_AsksForReplicasInSync(t *testing.T) {
	t.Parallel()
	fake, cl := newLog(t)
	asked := make(chan *kmsg.CreateTopicsRequest, 1)
	fake.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		asked <- req.(*kmsg.CreateTopicsRequest)
		return nil, nil, false
	})
	if _, err := (kafka.Options{ReplicationFactor: 1, MinInsyncReplicas: 1}).EnsureTopic(t.Context(), cl, "t", 2, nil); err != nil {
		t.Fatal(err)
	}
	got := (<-asked).Topics[0]
	if got.ReplicationFactor != 1 || len(got.Configs) != 1 || got.Configs[0].Name != "min.insync.replicas" || *got.Configs[0].Value != "1" {
		t.Errorf("%+v", got)
	}
	d, err := kafka.Durability(t.Context(), cl, "t")
	if err != nil || d.Replicas != 1 || d.MinInsync != "1" || d.CleanupPolicy != "delete" || !d.Readable {
		t.Errorf("%+v, %v", d, err)
	}
}

// A cluster's brokers learn of a topic after its controller has made it: until then they know of none.
func TestEnsureTopic_WaitsUntilTheBrokersKnowOfIt(t *testing.T) {
	t.Parallel()
	fake, cl := newLog(t)
	made, asked := false, 0
	fake.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		switch req := req.(type) {
		case *kmsg.CreateTopicsRequest:
			made = true
		case *kmsg.MetadataRequest:
			if asked++; made && asked < 5 && len(req.Topics) == 1 {
				resp := req.ResponseKind().(*kmsg.MetadataResponse)
				rt := kmsg.NewMetadataResponseTopic()
				rt.Topic, rt.ErrorCode = req.Topics[0].Topic, kerr.UnknownTopicOrPartition.Code
				resp.Topics = append(resp.Topics, rt)
				return resp, nil, true
			}
		}
		return nil, nil, false
	})
	st, err := kafka.EnsureTopic(t.Context(), cl, "t", 3, nil)
	if err != nil || !st.Created || st.Partitions != 3 || st.ID == [16]byte{} || asked < 5 {
		t.Errorf("%+v, %v, after %d questions", st, err, asked)
	}
}

func TestOptions_NamesBearThePrefix(t *testing.T) {
	t.Parallel()
	o := kafka.Options{Prefix: "shop."}
	got := []string{o.PositionsTopic(), o.IndexTopic(), o.RelayGroup(), o.TransactionalID("a")}
	for i, want := range []string{"shop.__outrelay_positions", "shop.__outrelay_index", "shop.outrelay-relay", "shop.outrelay-a"} {
		if got[i] != want {
			t.Errorf("%q, want %q", got[i], want)
		}
	}
	if !o.Internal("shop.__outrelay_index") || o.Internal("__outrelay_index") || o.Internal("orders") {
		t.Error("only the topics with the prefix are ours")
	}
}

func TestTLSFiles_Config(t *testing.T) {
	t.Parallel()
	if _, err := (kafka.TLSFiles{CA: "/no/such"}).Config(); !errors.Is(err, outrelay.ErrEnvironment) {
		t.Errorf("a file that is missing: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (kafka.TLSFiles{CA: empty}).Config(); !errors.Is(err, outrelay.ErrConfig) {
		t.Errorf("a file without certificates: %v", err)
	}
	if c, err := (kafka.TLSFiles{ServerName: "k"}).Config(); err != nil || c.ServerName != "k" || c.RootCAs != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestMechanism_RefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		if m, err := kafka.Mechanism(name, "u", func() (string, error) { return "p", nil }); err != nil || m.Name() != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := kafka.Mechanism("GSSAPI", "u", nil); !errors.Is(err, outrelay.ErrConfig) {
		t.Errorf("%v", err)
	}
}
